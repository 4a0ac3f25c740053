"""Runs repeat, figures can be measured again, and what fails leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import pytest
import torch

from app.bundle.bundle import Bundle
from app.bundle.manifest import INT8_GRAPH
from app.features.spec import DataPart
from model.__main__ import main
from model.config import TrainConfig
from model.data.errors import DataError
from model.data.input_files import InputFiles
from model.data.prepare import Prepared, prepare
from model.export.weights import read_weights
from model.pipeline import run
from model.result_places import ResultError
from model.score_files import Offline
from model.training.fit import TrainingError
from tests.conftest import Sample
from tests.support import realdata, starting
from tests.support.serving import wait_until

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(embedding_size=4, hidden=(16,), batch_size=256, epochs=1, threads=1)


class RunCommand(Protocol):
    """Runs ``python -m model`` in this process."""

    def __call__(self, *words: object) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        ...


@pytest.fixture
def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[RunCommand]:
    handler = signal.getsignal(signal.SIGTERM)

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["python -m model", *map(str, words)])
        code = main()
        return code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def one_line(run_command: RunCommand) -> Callable[..., str]:
    """Runs a command that must fail with one line, and returns it."""

    def run(*words: object, code: int = 1) -> str:
        found, out, err = run_command(*words)
        assert (found, out) == (code, "")
        assert re.fullmatch(r"error: .+\n", err), err
        return err.strip()

    return run


@pytest.mark.e2e
def test_the_commands_give_what_the_pipeline_gives(
    few: Sample, tmp_path: Path, run_command: RunCommand
) -> None:
    """Seed and data decide every file, in any process; the commands take what train printed."""
    expected = Bundle.open(
        run(prepare(few.spec, InputFiles([few.data])), CONFIG, tmp_path / "a", progress=False)
    )
    config, out = tmp_path / "short.toml", tmp_path / "b"
    settings = CONFIG.to_dict()
    config.write_text("".join(f"{key} = {json.dumps(settings[key])}\n" for key in settings))
    words = ("train", few.spec, few.data, "--config", config, "--out", out)
    trained = starting.run("model", *words)
    assert trained.returncode == 0, trained.stderr
    bundle = Path(trained.stdout.strip())
    assert bundle.parent == out
    found = Bundle.open(bundle)
    assert found.manifest.files == expected.manifest.files
    assert found.manifest.id == expected.manifest.id
    assert bundle.name.endswith(f"-{found.manifest.id[:12]}")

    figures, scores = tmp_path / "figures.json", tmp_path / "scores.parquet"
    code, shown, told = run_command("evaluate", out, few.data, "--part", "test", "--json", figures)
    assert code == 0
    assert "AUC 0." in shown
    assert shown.endswith(" clicks in 30 rows\n")
    assert "AUC and log loss say little: test (" in told
    assert json.loads(figures.read_text()) == found.manifest.metrics["test"]
    code, shown, _ = run_command("predict", bundle, few.data, "--out", scores)
    assert (code, shown) == (0, f"{scores}\n")
    assert pl.read_parquet(scores).height == 300


def test_a_bundle_is_all_that_is_left(tiny_bundle: Path) -> None:
    """Beside a bundle stands its report and nothing temporary."""
    names = {path.name for path in tiny_bundle.parent.iterdir()}
    assert names == {tiny_bundle.name, f"{tiny_bundle.name}.report"}


def test_evaluate_reproduces_the_manifest(tiny_bundle: Path, sample: Sample) -> None:
    """Each part's figures come out again from the files that the bundle was made of."""
    offline = Offline.open(tiny_bundle)
    for part in ("train", "validation", "test"):
        metrics = offline.evaluate(offline.frames([sample.data], part))
        assert json.loads(json.dumps(metrics.to_dict())) == offline.bundle.manifest.metrics[part]
    train = offline.bundle.manifest.metrics["train"]
    assert train["auc"] > 0.6, "nothing was learnt"
    assert train["calibration"] == pytest.approx(1, abs=1e-3)
    assert abs(offline.bundle.manifest.training["bias_added"]) < 0.5


OPEN_BANDIT = """\
label = "click"
timestamp = "timestamp"

[[fields]]
name = "user_feature_0"
kind = "categorical"
side = "context"

[[fields]]
name = "item_id"
kind = "categorical"
side = "candidate"
dtype = "integer"
"""


def test_a_part_with_few_clicks_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 1,000 rows of a real log 5 and 1 are clicks: no figure of theirs looks like a result."""
    spec = tmp_path / "bandit.toml"
    spec.write_text(OPEN_BANDIT, encoding="utf-8")
    prepared = prepare(spec, InputFiles(realdata.files("open-bandit", tmp_path)))
    config = replace(CONFIG, batch_size=512, hidden=(8,), epochs=1)
    bundle = run(prepared, config, tmp_path / "bundles", progress=False)
    told = capsys.readouterr().err
    assert "of 1,000 validation rows 5 have a click; an AUC needs 100 of each class" in told
    assert "validation (5 clicks in 1,000 rows), test (1 clicks in 1,000 rows)" in told
    test = Bundle.open(bundle).manifest.metrics["test"]
    assert test["auc_upper"] - test["auc_lower"] > 0.5
    assert "**Warning:** with fewer than 100 clicks" in bundle.with_name(
        f"{bundle.name}.report"
    ).joinpath("report.md").read_text(encoding="utf-8")


def test_a_part_of_other_files_is_refused(
    tiny_bundle: Path, sample: Sample, few: Sample, tmp_path: Path
) -> None:
    """The test part of other files is unknown: no figure is better than a wrong one."""
    offline = Offline.open(tiny_bundle)
    changed = tmp_path / sample.data.name
    changed.write_bytes(sample.data.read_bytes() + b"\n")
    for files in ([few.data], [changed], [sample.data, few.data]):
        with pytest.raises(DataError, match="not the files"):
            next(offline.frames(files, "test"))
    assert sum(frame.height for frame in offline.frames([few.data])) == 300


def test_predict_needs_no_label(tiny_bundle: Path, sample: Sample, tmp_path: Path) -> None:
    """Files without a label score as those with one, each row by its file and line."""
    unlabelled = tmp_path / "unlabelled.csv"
    lines = sample.data.read_text(encoding="utf-8").splitlines()[:101]
    text = "\n".join(line.rpartition(",")[0] for line in lines) + "\n"
    unlabelled.write_text(text, encoding="utf-8")
    offline = Offline.open(tiny_bundle)
    assert offline.predict([unlabelled], tmp_path / "a.parquet", 0.0) == 100
    assert offline.predict([sample.data], tmp_path / "b.parquet", 0.0) == len(sample.rows)
    found, expected = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in "ab")
    assert found["logit"].to_list() == expected["logit"].to_list()[:100]
    assert found["line"].to_list() == list(range(2, 102))
    assert set(found["file"]) == {"unlabelled.csv"}
    assert set(found["version"]) == {tiny_bundle.name}
    assert {p.name for p in tmp_path.iterdir()} == {"unlabelled.csv", "a.parquet", "b.parquet"}


def test_predict_says_at_once_where_it_cannot_write(
    tiny_bundle: Path, sample: Sample, tmp_path: Path
) -> None:
    """Before the files are read, with the path that was asked for."""
    offline = Offline.open(tiny_bundle)
    for out, problem in (
        (tmp_path, "it is a directory"),
        (tmp_path / "no" / "a.parquet", "there is no directory .*no"),
    ):
        with pytest.raises(ResultError, match=f"{out} cannot be written: {problem}$"):
            offline.predict([sample.data], out, 0.0)
    assert list(tmp_path.iterdir()) == []


def test_only_the_parts_that_are_wanted_are_read(few: Sample) -> None:
    """The rows of a part do not depend on which others are wanted; files must be of these."""
    two = prepare(few.spec, InputFiles([few.data], wanted=("train", "validation")))
    three = prepare(few.spec, InputFiles([few.data]))
    assert set(two.data) == {"train", "validation"}
    assert two.test_rows == []
    assert len(three.test_rows) == len(three.data["test"])
    for part, data in two.data.items():
        np.testing.assert_array_equal(data.candidate_rows, three.data[part].candidate_rows)
    assert two.fingerprint() != three.fingerprint()
    files: dict[DataPart, list[Path]] = {"train": [few.data], "test": [few.data]}
    with pytest.raises(DataError, match=r"or files for each part: train, validation$"):
        prepare(few.spec, InputFiles(parts=files, wanted=("train", "validation")))


def test_a_failed_run_leaves_nothing(
    few: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails while the bundle is written, nothing of it stays."""

    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr("model.pipeline.golden_examples", fail)
    with pytest.raises(RuntimeError, match="disk"):
        run(prepare(few.spec, InputFiles([few.data])), CONFIG, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def few_prepared(few: Sample) -> Prepared:
    return prepare(few.spec, InputFiles([few.data]))


@pytest.fixture(scope="module")
def fm(few_prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a factorisation machine."""
    config = replace(CONFIG, network="fm", learning_rate=0.05)
    return run(few_prepared, config, tmp_path_factory.mktemp("fm"), progress=False)


def test_an_fnn_starts_from_an_fm(few_prepared: Prepared, fm: Path, tmp_path: Path) -> None:
    """The FM's table is where training begins, and the manifest names the FM."""
    still = replace(CONFIG, network="fnn", learning_rate=1e-12)
    found = Bundle.open(run(few_prepared, still, tmp_path, progress=False, init_from=fm))
    layout = few_prepared.vocabulary.layout
    start, end = (
        read_weights(bundle.graph, bundle.manifest.network, layout)
        for bundle in (Bundle.open(fm), found)
    )
    torch.testing.assert_close(start["table"], end["table"], atol=1e-8, rtol=0)
    torch.testing.assert_close(start["bias"].reshape(1), end["global_weight"], atol=1e-8, rtol=0)
    told = found.manifest.training["init_from"]
    assert (told["network"], told["version"], told["anew"]) == ("fm", fm.name, None)
    assert told["id"] == Bundle.open(fm).manifest.id
    assert (told["values"]["new"], told["values"]["gone"]) == (0, 0)


def test_an_fnn_without_a_start_says_so(
    few_prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an FM a warning is given, and the manifest says that there was none."""
    bundle = run(few_prepared, replace(CONFIG, network="fnn"), tmp_path, progress=False)
    assert "starts from random weights" in capsys.readouterr().err
    assert Bundle.open(bundle).manifest.training["init_from"] is None


def test_a_start_that_does_not_fit_is_refused(
    few_prepared: Prepared, fm: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    """A network starts from one of its kind, an FNN from an FM too, of its embedding size."""
    config = replace(CONFIG, network="fnn")
    for wrong, start, complaint in (
        (CONFIG, fm, "is of fm and this is deepfm"),
        (config, tiny_bundle, "is of deepfm and this is fnn"),
        (replace(config, embedding_size=3), fm, "has embedding_size 4, not 3"),
    ):
        with pytest.raises(TrainingError, match=complaint):
            run(few_prepared, wrong, tmp_path, progress=False, init_from=start)
    assert not list(tmp_path.iterdir())


def test_the_command_starts_from_the_newest_bundle(
    few: Sample, fm: Path, tmp_path: Path, run_command: RunCommand
) -> None:
    """``--init-from`` takes a bundle or a directory of them, and says what was found in it."""
    config = tmp_path / "next.toml"
    config.write_text("embedding_size = 4\nepochs = 1\nbatch_size = 128\nthreads = 1\n")
    words = ("--network", "fm", "--config", config, "--init-from", fm.parent)
    code, out, err = run_command("train", few.spec, few.data, *words, "--out", tmp_path / "out")
    assert code == 0, err
    assert f"starts from {fm.name}: " in err
    assert " 0 are new and 0 have gone" in err
    told = Bundle.open(Path(out.strip())).manifest.training["init_from"]
    before = Bundle.open(fm).manifest.metrics["validation"]
    assert told["validation"]["auc"] == pytest.approx(before["auc"], abs=1e-6)


def test_scores_that_say_nothing_are_warned_of(
    few_prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network that has learnt nothing is exported, and the log says what it is worth."""
    config = replace(CONFIG, network="lr", learning_rate=1e-9)
    run(few_prepared, config, tmp_path, progress=False)
    assert "all scores of the test part are alike" in capsys.readouterr().err


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(few: Sample, tmp_path: Path, number: int) -> None:
    """Ctrl-C, or SIGTERM, in the middle of training: exit code 130, one line, no directory."""
    config = tmp_path / "long.toml"
    config.write_text("epochs = 100000\nhidden = [16]\npatience = 0\nthreads = 1\n")
    out, log = tmp_path / "bundles", tmp_path / "log"
    with log.open("wb") as file:
        words = ("train", few.spec, few.data, "--config", config, "--out", out)
        command = [sys.executable, "-m", "model", *map(str, words)]
        process = starting.start(command, os.environ, None, file)
    try:
        wait_until(
            lambda: b"read and encoded" in log.read_bytes() or process.poll() is not None,
            "training begins",
            60,
        )
        process.send_signal(number)
        assert process.wait(30) == 130, log.read_text()
    finally:
        process.kill()
        process.wait()
    text = log.read_text()
    assert "interrupted; no unfinished result is left" in text
    assert "Traceback" not in text
    assert not out.exists() or not list(out.iterdir())


def test_failures_are_one_line_each(
    few: Sample, tmp_path: Path, one_line: Callable[..., str]
) -> None:
    """A mistake of the caller gives an exit code and one line that names it."""
    out = ("--out", tmp_path / "bundles")
    assert "deepfn" in one_line("train", few.spec, few.data, "--network", "deepfn", *out)
    absent = tmp_path / "absent.csv"
    assert str(absent) in one_line("train", few.spec, absent, *out)
    assert "absent.toml" in one_line("train", tmp_path / "absent.toml", few.data, *out)
    assert "no data" in one_line("train", few.spec, *out)
    assert "--sead" in one_line("train", few.spec, few.data, "--sead", "3", *out, code=2)
    assert "trains" in one_line("trains", few.spec, code=2)
    assert "nowhere" in one_line("evaluate", tmp_path / "nowhere", few.data)

    lines = few.data.read_text(encoding="utf-8").splitlines()
    lines[41] = lines[41].rpartition(",")[0] + ",2"
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("\n".join(lines) + "\n", encoding="utf-8")
    message = one_line("train", few.spec, wrong, *out)
    assert "wrong.csv:42: label 'click' is neither 0 nor 1" in message
    assert [p.name for p in tmp_path.iterdir()] == ["wrong.csv"]


def test_files_that_cannot_be_opened_are_one_line_too(
    few: Sample, tiny_bundle: Path, tmp_path: Path, one_line: Callable[..., str]
) -> None:
    """Settings that are absent and results that cannot be written are the caller's mistakes."""
    absent = tmp_path / "absent.train.toml"
    assert absent.name in one_line("train", few.spec, few.data, "--config", absent)
    scores = tmp_path / "nowhere" / "scores.parquet"
    assert "nowhere" in one_line("predict", tiny_bundle, few.data, "--out", scores)
    figures = tmp_path / "nowhere" / "figures.json"
    assert "nowhere" in one_line("evaluate", tiny_bundle, few.data, "--json", figures)


@pytest.mark.parametrize("words", [(), ("--help",), ("train", "--help")])
def test_help_is_no_failure(run_command: RunCommand, words: tuple[str, ...]) -> None:
    """Help goes to standard output."""
    code, out, _ = run_command(*words)
    assert code in ((0,) if words else (0, 2))
    assert "train" in out


@pytest.mark.parametrize("quantize", ["int8", "int8-unmeasured"])
def test_int8_of_unknown_loss_is_left_out_unless_accepted(
    few: Sample, tmp_path: Path, run_command: RunCommand, quantize: str
) -> None:
    """Thirty validation rows do not measure the loss: the log says so, and what to do."""
    config = tmp_path / "few.toml"
    config.write_text(
        "embedding_size = 4\nhidden = [16]\nepochs = 1\nbatch_size = 128\nthreads = 1\n"
    )
    code, out, err = run_command(
        "train", few.spec, few.data, "--config", config, "--out", tmp_path / "bundles",
        "--quantize", quantize,
    )  # fmt: skip
    assert code == 0, err
    bundle = Bundle.open(Path(out.strip()))
    kept = quantize == "int8-unmeasured"
    assert (INT8_GRAPH in bundle.manifest.files) is kept
    assert (bundle.path / INT8_GRAPH).exists() is kept
    assert all((each.int8_logits is not None) is kept for each in bundle.examples)
    (told,) = bundle.manifest.training["int8"]
    assert (told["accepted"], told["verdict"], told["rows"]) == (kept, "undecided", 30)
    said = "the loss of the int8 graph is not known" if kept else "the int8 graph is left out"
    assert re.search(
        rf"^warning: {said}: 30 validation rows, \d+ with a click, are too few", err, re.M
    )
    assert ("--quantize int8-unmeasured" in err) is not kept
    (report,) = (tmp_path / "bundles").glob("*.report/report.md")
    assert said in report.read_text()
