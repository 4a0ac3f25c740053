"""The trainer's command line answers a first mistake with a line that says what to do."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.features.spec import FeatureSpec
from model.__main__ import main
from model.training.device import cuda_problem
from tests.conftest import Sample
from tests.support import starting
from tests.support.serving import ROOT

pytestmark = pytest.mark.slow

RunCommand = Callable[..., tuple[int, str]]
SPEC = """
label = "click"
[[fields]]
name = "user_id"
kind = "categorical"
side = "context"
[[fields]]
name = "item_id"
kind = "categorical"
side = "candidate"
"""


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[RunCommand]:
    """Runs a command in an empty directory; returns its exit code and standard error."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["model", *words])
        return main(), capsys.readouterr().err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_no_command_is_answered_with_the_help(run: RunCommand) -> None:
    """The commands are listed, and no empty error follows."""
    code, error = run()
    assert code == 2
    assert "error:" not in error


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["train"], "error: Missing argument 'spec'; see "),
        (["trian"], "error: No such command 'trian'. Did you mean 'train'?; see "),
        (["train", "--sead", "1", "spec.toml"], "error: No such option: --sead"),
    ],
)
def test_a_wrong_command_line_names_the_help(
    run: RunCommand, words: list[str], wanted: str
) -> None:
    """One line says what is missing or unknown, and where to look it up; the exit code is 2."""
    code, error = run(*words)
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith(wanted)
    assert error.endswith("--help\n")


def test_a_spec_that_is_not_there_is_named(run: RunCommand) -> None:
    """The message has the path and the reason, once each."""
    assert run("train", "absent.toml", "log.csv") == (
        1,
        "error: cannot read feature spec absent.toml: No such file or directory\n",
    )


def test_a_file_that_is_no_spec_is_named(run: RunCommand, tmp_path: Path) -> None:
    """Data given in the place of the spec are told by their name."""
    (tmp_path / "log.csv").write_text("user_id,click\n1,1\n")
    assert run("train", "log.csv", "spec.toml") == (
        1,
        "error: log.csv is a data file; the feature spec must be a TOML file\n",
    )


def test_data_that_are_not_there_are_named(run: RunCommand, tmp_path: Path) -> None:
    """The message has the path and the reason, once each."""
    (tmp_path / "spec.toml").write_text(SPEC)
    assert run("train", "spec.toml", "absent.csv") == (
        1,
        "error: cannot read absent.csv: No such file or directory\n",
    )


@pytest.mark.parametrize("name", ["train", "compare", "tune"])
def test_a_device_is_settled_before_the_data_are_read(
    run: RunCommand, tmp_path: Path, name: str
) -> None:
    """One line names a device that there is not, and one says why there is no CUDA."""
    (tmp_path / "spec.toml").write_text(SPEC)
    words = [name, "spec.toml", "absent.csv", "--device"]
    code, error = run(*words, "gpu")
    assert (code, error.count("\n")) == (1, 1)
    assert "device: must be one of auto, cpu, cuda, got 'gpu'" in error
    if (problem := cuda_problem()) is None:
        pytest.skip("this machine has CUDA")
    assert run(*words, "cuda") == (
        1, f"error: device: CUDA was asked for and cannot be used: {problem}\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["train", "spec.toml", "absent.csv", "--out", "file"], "file"),
        (["train", "spec.toml", "absent.csv", "--out", "file/bundles"], "file/bundles"),
        (["compare", "spec.toml", "absent.csv", "--out", "file"], "file"),
        (["tune", "spec.toml", "absent.csv", "--out", "file/found.toml"], "file/found.toml"),
        (["tune", "spec.toml", "absent.csv", "--out", "directory"], "directory"),
        (["tune", "spec.toml", "absent.csv", "--study", "directory"], "directory"),
        (["fetch", "movielens-100k", "--out", "file"], "file/movielens-100k"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_first(
    run: RunCommand, tmp_path: Path, words: list[str], place: str
) -> None:
    """Before the data are looked at, which are not there."""
    (tmp_path / "spec.toml").write_text(SPEC)
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()
    before = set(tmp_path.rglob("*"))
    code, error = run(*words)
    assert (code, error.count("\n")) == (1, 1)
    assert error.startswith(f"error: {place} cannot be written: ")
    assert set(tmp_path.rglob("*")) == before


def test_a_search_replaces_none_of_its_inputs(run: RunCommand, tmp_path: Path) -> None:
    """Settings to start from, data, and the study itself are not written over."""
    (tmp_path / "spec.toml").write_text(SPEC)
    (tmp_path / "my.train.toml").write_text("# Found by `python -m model tune`\n")
    (tmp_path / "log.csv").write_text("user_id,item_id,click\n")
    tune = ["tune", "spec.toml", "log.csv", "--config", "my.train.toml"]
    for words, wanted in (
        (["--out", "./my.train.toml"], "my.train.toml is an input, and must stay"),
        (["--study", "log.csv"], "log.csv is an input, and must stay"),
        (["--out", "new.toml", "--study", "./new.toml"], "is the file of --out too"),
    ):
        code, error = run(*tune, *words)
        assert (code, wanted in error) == (1, True), error
    assert (tmp_path / "log.csv").read_text() == "user_id,item_id,click\n"


@pytest.mark.parametrize(("command", "option"), [("predict", "--out"), ("evaluate", "--json")])
def test_scores_and_figures_replace_no_input(
    run: RunCommand, tiny_bundle: Path, sample: Sample, tmp_path: Path, command: str, option: str
) -> None:
    """The log, under any name, and the bundle stay; a bad place is told before a row is read."""
    data = tmp_path / "log.csv"
    data.write_bytes(sample.data.read_bytes())
    (tmp_path / "link.csv").hardlink_to(data)
    for place, wanted in (
        ("log.csv", "error: log.csv is an input, and must stay"),
        ("link.csv", "error: link.csv is the input log.csv by another name, and must"),
        (f"{tiny_bundle}/x.csv", f"lies in the bundle {tiny_bundle.name}, which must not change"),
        ("no/x.csv", "error: no/x.csv cannot be written: there is no directory no"),
    ):
        code, error = run(command, str(tiny_bundle), "log.csv", option, place)
        assert (code, error.count("\n")) == (1, 1)
        assert wanted in error
    assert data.read_bytes() == sample.data.read_bytes()


def test_settings_and_spec_in_each_others_place_are_told(run: RunCommand, tmp_path: Path) -> None:
    """Each message says what the file is."""
    (tmp_path / "spec.toml").write_text(SPEC)
    (tmp_path / "my.train.toml").write_text("epochs = 3\n")
    code, error = run("train", "my.train.toml", "log.csv")
    assert (code, error.count("\n")) == (1, 1)
    assert error.startswith("error: my.train.toml: `label` and `[[fields]]` are missing, so this")
    code, error = run("train", "spec.toml", "log.csv", "--config", "spec.toml")
    assert (code, error.count("\n")) == (1, 1)
    assert error.startswith("error: spec.toml: this is a feature spec, not training settings")


def test_all_errors_of_a_spec_come_with_its_path(run: RunCommand, tmp_path: Path) -> None:
    """One run shows them all, before the data are looked at."""
    (tmp_path / "specs").mkdir()
    text = SPEC.replace('"context"', '"user"').replace("label", "lable")
    (tmp_path / "specs" / "clicks.toml").write_text(text)
    assert run("train", "specs/clicks.toml", "absent.csv") == (
        1,
        "error: specs/clicks.toml: 3 errors\n"
        "  unknown key 'lable'; did you mean 'label'?\n"
        "  field 'user_id': `side` must be one of 'candidate', 'context', got \"user\"\n"
        "  `label` is missing; it is text that is not empty\n",
    )


def test_commands_that_need_no_torch_do_not_load_it() -> None:
    """Modules that take seconds to import are left to the commands that use them."""
    loaded = "{'onnxruntime', 'polars', 'torch'} & set(sys.modules)"
    program = f"import sys, model.__main__; print(*{loaded})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


def test_predict_keeps_the_columns_that_are_named(
    run: RunCommand, tiny_bundle: Path, sample: Sample, tmp_path: Path
) -> None:
    """``--keep`` takes lists, any number of times; a name with a comma is quoted."""
    header, *lines = sample.data.read_text().splitlines()[:20]
    lines = [f'{header},"a,b"', *(f"{line},{number}" for number, line in enumerate(lines))]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    keep = ["--keep", "click, user_id", "--keep", '"a,b"']
    code, error = run("predict", str(tiny_bundle), "log.csv", "--out", "x.csv", *keep)
    assert (code, error) == (0, "19 rows scored\n")
    written = (tmp_path / "x.csv").read_text().splitlines()
    assert written[0] == 'file,line,click,user_id,"a,b",logit,score,version'
    assert written[3].startswith("log.csv,4,")
    assert written[3].split(",")[4] == "2"
    code, error = run("predict", str(tiny_bundle), "log.csv", "--out", "y.csv", "--keep", '"a')
    assert (code, "--keep: " in error, error.count("\n")) == (2, True, 1)


def test_a_file_in_the_place_of_a_bundle_is_told(run: RunCommand, tmp_path: Path) -> None:
    """The spec, or the data, given first."""
    (tmp_path / "spec.toml").write_text(SPEC)
    assert run("predict", "spec.toml", "log.csv", "--out", "x.csv") == (
        1,
        "error: no bundle at spec.toml: it is a file, not a directory\n",
    )


def test_files_of_items_and_users_are_an_option_of_all_that_read_data(
    run: RunCommand, tiny_bundle: Path
) -> None:
    """Each reads them first, and tells what is wrong with them; an option alone is told too."""
    Path("spec.toml").write_text(SPEC)
    Path("clicks.csv").write_text("user_id,item_id,click\n1,2,0\n")
    Path("wrong.jsonl").write_text("{\n")
    to_train = ["spec.toml", "clicks.csv", "--split", "random"]
    given = [str(tiny_bundle), "clicks.csv"]
    for words in (["train", *to_train], ["compare", *to_train], ["tune", *to_train],
                  ["evaluate", *given], ["predict", *given, "--out", "scores.csv"]):  # fmt: skip
        for files, key, name in (
            ("--items", "--id", "item_id"),
            ("--profiles", "--key", "user_id"),
        ):
            code, error = run(*words, files, "wrong.jsonl", key, name)
            assert code == 1
            assert "error: wrong.jsonl has no usable line" in error
            code, error = run(*words, files, "wrong.jsonl")
            assert code == 2
            assert f"{files} and {key} go together" in error


def test_a_spec_is_written_and_not_written_over(run: RunCommand) -> None:
    """The file is the spec that the trainer reads; a second run needs --replace."""
    rows = "".join(f"{n % 2},u{n % 9},i{n % 7}\n" for n in range(90))
    Path("log.csv").write_text(f"click,user,item\n{rows}")
    words = ("spec", "log.csv", "--label", "click", "--context", "user", "--out", "new/log.toml")
    code, told = run(*words)
    assert (code, told.splitlines()[0].split()[0]) == (0, "column")
    spec = FeatureSpec.load(Path("new/log.toml"))
    assert [(field.name, field.side) for field in spec.fields] == [
        ("user", "context"), ("item", "candidate"),
    ]  # fmt: skip
    before = Path("new/log.toml").read_text()
    code, told = run(*words)
    assert code == 1
    assert "error: new/log.toml is there already; name another file with --out" in told
    assert run(*words, "--replace")[0] == 0
    assert Path("new/log.toml").read_text() == before


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--label", "klick"], "error: --label: there is no column 'klick'; did you mean 'click'?"),
        (["--label", "click", "--out", "log.csv"], "error: log.csv is an input, and must stay"),
        (["--label", "click", "--context", '"a'], "error: Invalid value: --context"),
        ([], "error: Missing option '--label'"),
    ],
)
def test_a_wrong_option_of_spec_is_named(words: list[str], wanted: str, run: RunCommand) -> None:
    """One line says what to do, and the data stay."""
    Path("log.csv").write_text("click,user,item\n1,a,b\n0,b,a\n")
    code, told = run("spec", "log.csv", *words)
    assert code in (1, 2)
    assert told.startswith(wanted)
    assert Path("log.csv").read_text() == "click,user,item\n1,a,b\n0,b,a\n"


@pytest.mark.parametrize("network", ["deepfm", "din", "ffm", "pnn_star"])
def test_a_training_does_without_the_compiler_of_torch(
    network: str, sample: Sample, tmp_path: Path
) -> None:
    """It would take a second of CPU time to import, and nothing is compiled."""
    (tmp_path / "settings.toml").write_text("epochs = 1\nembedding_size = 2\nhidden = [4]\n")
    words = ("--network", network, "--config", tmp_path / "settings.toml", "--out", tmp_path)
    done = starting.run("tests.model.telling_compiler", "train", sample.spec, sample.data, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "not loaded"


SWALLOWED = """\
import os, signal, sys, time
from model import __main__ as program

def command(standalone_mode):
    try:
        os.kill(os.getpid(), signal.SIGNAL)
        time.sleep(60)
    except BaseException:
        print("swallowed", flush=True)
    try:
        while True:
            time.sleep(0.01)
    finally:
        time.sleep(5 * program.AGAIN_SECONDS)
        print("cleaned up", flush=True)

program.AGAIN_SECONDS = 0.1
program.cli = command
sys.exit(program.main())
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_that_some_code_has_swallowed_ends_the_command(name: str) -> None:
    """It is told again, but not while it cleans up."""
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED.replace("SIGNAL", name)], cwd=ROOT, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (130, "swallowed\ncleaned up\n"), done.stderr
    assert done.stderr == "interrupted; no unfinished result is left\n"
