"""A comparison measures every member alike, keeps what is done and outlives a failure."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from app.bundle.bundle import Bundle
from app.features.spec import DataPart
from model.compare import (
    BUNDLES,
    MEMBERS,
    REPEATS,
    Comparison,
    Member,
    Record,
    Row,
    chosen,
    compare,
    time_scoring,
)
from model.compare_report import (
    SUMMARY,
    average,
    interval,
    markdown,
    page,
    reliability_plot,
    spread,
    write_pages,
    write_summary,
)
from model.config import NETWORKS, ConfigError, SettingsFile
from model.data.input_files import InputFiles
from model.data.prepare import Prepared, prepare
from model.quality.figures import Counts
from model.score_files import Offline
from tests.conftest import Sample

pytestmark = pytest.mark.slow

COLUMNS = (
    "network,seed,auc,auc_lower,auc_upper,log_loss,log_loss_lower,log_loss_upper,calibration_ratio,"
    "parameters,train_seconds,train_rows_per_second,bundle_bytes,score_1_us,score_1000_us"
)
SMALL = {"embedding_size": 4, "hidden": [8], "batch_size": 64, "epochs": 1, "threads": 1}
BROKEN = SettingsFile(SMALL, {"fm": {"learning_rate": 1e30}})
"""FM's loss stops being finite."""
WHOLE = SettingsFile(SMALL)
COUNTS: dict[DataPart, Counts] = {
    "train": Counts(2_400, 800),
    "validation": Counts(300, 100),
    "test": Counts(300, 3),
}


@pytest.fixture(scope="module")
def prepared(few: Sample) -> Prepared:
    return prepare(few.spec, InputFiles([few.data]))


class Run:
    """A comparison of LR, FM and FNN in one directory, and what its summary said on the way."""

    def __init__(self, prepared: Prepared, out: Path) -> None:
        self.prepared, self.out = prepared, out
        self.lines: list[int] = []

    def __call__(self, settings: SettingsFile) -> Comparison:
        return compare(
            self.prepared, settings, ["lr", "fm", "fnn"], 1, self.out, self._note, progress=False
        )

    def _note(self, sofar: Comparison) -> None:
        text = write_summary(self.out, sofar).read_text()
        self.lines.append(len(text.splitlines()) - 1)

    def records(self) -> dict[str, bytes]:
        """Every member's file."""
        return {p.name: p.read_bytes() for p in sorted((self.out / MEMBERS).iterdir())}


@pytest.fixture(scope="module")
def broken(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Comparison]:
    """The comparison with an FM that fails."""
    run = Run(prepared, tmp_path_factory.mktemp("report"))
    return run, run(BROKEN)


@pytest.fixture(scope="module")
def whole(broken: tuple[Run, Comparison]) -> tuple[Run, Comparison]:
    """The same comparison again, with settings that all can be trained with."""
    run, _ = broken
    lr = run.records()["lr-1.json"]
    found = run(WHOLE)
    assert run.records()["lr-1.json"] == lr, "what was done is done"
    return run, found


def test_a_failure_does_not_lose_the_others(broken: tuple[Run, Comparison]) -> None:
    """LR is there, FM says why it is not, and FNN that it has nothing to start from."""
    run, found = broken
    assert [record.row.network for record in found.records] == ["lr"]
    (fm, why), (fnn, because) = found.failures
    assert (fm, fnn) == (Member("fm", 1), Member("fnn", 1))
    assert why.startswith("TrainingError: the loss is")
    assert because == "CompareError: the fm that it starts from failed"
    assert run.lines[:3] == [1, 1, 1]
    for text in (markdown("x", COUNTS, found), page("x", COUNTS, found)):
        assert "fm, seed 1: TrainingError" in text


def test_a_comparison_goes_on_where_it_was(whole: tuple[Run, Comparison]) -> None:
    """With FM's settings put right, FM and FNN are added; the summary grows member by member."""
    run, found = whole
    assert [record.row.network for record in found.records] == ["lr", "fm", "fnn"]
    assert not found.failures
    assert run.lines[3:] == [1, 2, 3]
    before = run.records()
    bundles = {path.name for path in (run.out / BUNDLES).iterdir()}
    assert run(WHOLE) == found
    assert run.records() == before
    assert {path.name for path in (run.out / BUNDLES).iterdir()} == bundles


def test_the_summary_holds_each_member(whole: tuple[Run, Comparison], prepared: Prepared) -> None:
    """A line has the manifest's figures, the bundle's size on disk and the times of a score."""
    run, found = whole
    text = (run.out / SUMMARY).read_text()
    assert text.splitlines()[0] == COLUMNS
    lines = list(csv.DictReader(text.splitlines()))
    assert [(line["network"], line["seed"]) for line in lines] == [
        ("lr", "1"),
        ("fm", "1"),
        ("fnn", "1"),
    ]
    for line, record in zip(lines, found.records, strict=True):
        path = run.out / BUNDLES / record.bundle
        manifest = Bundle.open(path).manifest
        assert manifest.network == line["network"]
        assert manifest.training["config"]["seed"] == 1
        test = manifest.metrics["test"]
        assert float(line["auc"]) == pytest.approx(test["auc"], rel=1e-5)
        for name in ("auc_lower", "auc_upper", "log_loss_lower", "log_loss_upper"):
            assert float(line[name]) == pytest.approx(test[name], rel=1e-5)
        assert float(line["log_loss"]) == pytest.approx(test["log_loss"], rel=1e-5)
        assert float(line["calibration_ratio"]) == pytest.approx(test["calibration"], rel=1e-5)
        assert int(line["bundle_bytes"]) == sum(
            file.stat().st_size for file in path.rglob("*") if file.is_file()
        )
        assert 0 < float(line["score_1_us"]) < float(line["score_1000_us"])
        assert float(line["train_seconds"]) > 0
        assert float(line["train_rows_per_second"]) > 0
    rows = prepared.vocabulary.layout.table_rows
    assert [int(line["parameters"]) for line in lines[:2]] == [rows + 1, 5 * rows + 1]


def test_an_fnn_starts_from_the_fm_of_its_seed(whole: tuple[Run, Comparison]) -> None:
    """The manifest of the FNN names the FM beside it."""
    run, found = whole
    _, fm, fnn = (Bundle.open(run.out / BUNDLES / record.bundle) for record in found.records)
    assert fnn.manifest.training["init_from"]["id"] == fm.manifest.id


def test_a_record_that_cannot_be_trusted_is_made_anew(
    whole: tuple[Run, Comparison], capsys: pytest.CaptureFixture[str]
) -> None:
    """A half-written record, one of other settings and one without its bundle do not count."""
    run, found = whole
    path = run.out / MEMBERS / "lr-1.json"
    path.write_bytes(path.read_bytes()[:-9])
    capsys.readouterr()
    again = run(WHOLE)
    assert "lr, seed 1: its record cannot be read" in capsys.readouterr().err
    assert again.records[0].row.auc == found.records[0].row.auc
    bundle = run.out / BUNDLES / again.records[0].bundle
    bundle.rename(bundle.with_name("gone"))
    run(WHOLE)
    assert "lr, seed 1: its bundle is gone" in capsys.readouterr().err
    changed = SettingsFile({**SMALL, "epochs": 2}, {"fm": {"epochs": 1}, "fnn": {"epochs": 1}})
    capsys.readouterr()
    again = run(changed)
    assert "lr, seed 1: data or settings have changed" in capsys.readouterr().err
    assert again.records[0].config["epochs"] == 2
    assert [r.bundle for r in again.records[1:]] == [r.bundle for r in found.records[1:]]


def test_networks_are_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """All, or some in any order; an FNN brings its FM; an unknown name is refused."""
    assert chosen("all") == list(NETWORKS)
    assert chosen("deepfm,lr") == chosen("lr, deepfm") == ["lr", "deepfm"]
    assert chosen("fnn") == ["fm", "fnn"]
    assert "fnn starts from an fm" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"got 'deepfn', 'nn'; did you mean 'deepfm'"):
        chosen("lr,deepfn,nn")


def test_scoring_is_timed_on_any_number_of_rows(
    tiny_bundle: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows repeat where a part has fewer than a thousand."""
    monkeypatch.setitem(REPEATS, 1000, 3)
    offline = Offline.open(tiny_bundle)
    data = prepared.data["test"].take(np.arange(3))
    assert time_scoring(offline.engine, data, 1000) > 0


def record(network: str, seed: int, auc: float | None) -> Record:
    bounds = (None, None) if auc is None else (auc - 0.1, auc + 0.05)
    row = Row(
        network, seed, auc, *bounds, 0.5, 0.45, 0.57, 1.01, 1234, 2.0, 1e5, 10**6, 55.0, 900.0
    )
    config: dict[str, object] = {"network": network, "seed": seed, "epochs": 3}
    config["embedding_l2"] = 0.1 if network == "deepfm" else 0.0
    return Record("", "bundle", row, config, [0.1, 0.5], [0.12, 0.48])


FOUND = Comparison(
    [record("lr", 1, 0.7), record("deepfm", 1, 0.8), record("lr", 2, 0.72), record("fm", 1, None)],
    [(Member("ffm", 2), 'ExportError: <no> "graph"')],
)


def test_means_have_their_spread() -> None:
    """The spread is the sample's standard deviation; one seed has none."""
    assert spread([0.7, 0.72], ".3f") == "0.710 ± 0.014"
    assert spread([0.7], ".3f") == "0.700"
    assert spread([0.7, None], ".3f") == spread([None], ".3f") == "–"
    assert average([0.7, 0.72], ".3f") == "0.710"
    assert interval([0.7, 0.72], [0.8, 0.9]) == "0.7100 to 0.8500"
    assert interval([0.7, None], [0.8, None]) == "–"


def test_the_table_has_a_line_for_each_network() -> None:
    """Means over seeds, then the settings in which the networks differ, then what failed."""
    text = markdown("clicks", COUNTS, FOUND)
    assert text.startswith("# clicks\n\n2,400 rows (800 clicks) to train, 300 rows (100 clicks)")
    assert "AUC and log loss say little: test (3 clicks in 300 rows)" in text
    assert "| lr | 2 | 0.7100 ± 0.0141 | 0.6100 to 0.7600 | 0.5000 ± 0.0000 | 0.4500 to" in text
    assert "| deepfm | 1 | 0.8000 | 0.7000 to 0.8500 | 0.5000 |" in text
    assert "| fm | 1 | – | – | 0.5000 |" in text
    assert "| embedding_l2 | 0.0 | 0.1 | 0.0 |" in text
    assert "epochs |" not in text
    assert '- ffm, seed 2: ExportError: <no> "graph"' in text


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    """Plots stand inside, nothing is loaded from anywhere, and text cannot become markup."""
    path = write_pages(tmp_path, "<clicks> & more", COUNTS, FOUND)
    text = path.read_text(encoding="utf-8")
    assert text.count("<svg") == text.count("<figure>") == 3
    assert not re.search(r"(?:src|href)\s*=\s*\"(?!#)(?!http://www\.w3\.org/)", text)
    assert "<script" not in text
    assert "url(http" not in text
    assert "<title>&lt;clicks&gt; &amp; more</title>" in text
    assert "&lt;no&gt;" in text
    for name in ("lr", "fm", "deepfm", "calibrated"):
        assert name in text
    assert write_pages(tmp_path, "<clicks> & more", COUNTS, FOUND).read_text("utf-8") == text


def test_no_two_networks_look_alike() -> None:
    """Of all networks, each has a line of its own in the plot of reliability, and in its legend."""
    record = FOUND.records[0]
    row = record.row
    records = [
        msgspec.structs.replace(record, row=msgspec.structs.replace(row, network=name))
        for name in NETWORKS
    ]
    [axes] = reliability_plot(Comparison(records, [])).axes
    lines = axes.get_lines()
    assert [line.get_label() for line in lines] == [*NETWORKS, "calibrated"]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines)


def test_nothing_done_is_still_a_page(tmp_path: Path) -> None:
    """Where every member failed, the tables are empty and the reasons are there."""
    found = Comparison([], [(Member("lr", 1), "TrainingError: no rows")])
    text = write_pages(tmp_path, "clicks", COUNTS, found).read_text(encoding="utf-8")
    assert "TrainingError: no rows" in text
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").count("| network |") == 1
    assert write_summary(tmp_path, found).read_text() == COLUMNS + "\n"


def test_the_command_compares(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """``compare`` prints the page's path; a failed member is exit code 1 after the report."""
    from model.__main__ import main

    config = tmp_path / "small.toml"
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in SMALL.items())
    config.write_text(text + "[fm]\nlearning_rate = 1e30\n")
    words = ["compare", sample.spec, sample.data, "--networks", "lr,fm", "--seeds", "1",
             "--config", config, "--out", tmp_path / "report"]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["python -m model", *map(str, words)])
    assert main() == 1
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'report' / 'report.html'}\n"
    assert "error: failed: fm, seed 1; the others are in the report" in err
    assert "| lr | 1 |" in err
