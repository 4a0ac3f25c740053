"""``./ctr`` and what ``scripts/tiny-bundle`` makes its log with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from app.features.spec import FeatureSpec
from model.data.reader import MOMENT, Reader
from scripts.made_up_log import main as made_up_log
from tests.support.markdown import ROOT

pytestmark = pytest.mark.slow

SPECS = [
    path
    for path in sorted((ROOT / "model" / "specs").glob("*.toml"))
    if not path.name.endswith(".train.toml")
]


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of the repository from another directory."""
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ((), "./ctr serve --bundle DIR"),
        (("--help",), "publish"),
        (("serve", "--help"), "--max-batch-rows"),
        (("train", "--help"), "--init-from"),
    ],
)
def test_ctr_runs_service_and_trainer(words: tuple[str, ...], shown: str, tmp_path: Path) -> None:
    """From any directory, without an activated environment; each with its own help."""
    done = run(str(ROOT / "ctr"), *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_ctr_passes_exit_codes_on(tmp_path: Path) -> None:
    """A supervisor sees how the service ended."""
    done = run(str(ROOT / "ctr"), "serve", "--bundle", "x", "--port", "x", cwd=tmp_path)
    assert done.returncode == 2


@pytest.mark.parametrize("spec_path", SPECS, ids=lambda path: path.stem)
def test_a_made_up_log_fits_its_spec(spec_path: Path, tmp_path: Path) -> None:
    """The trainer reads every line of it; both labels occur, and time goes on."""
    log = tmp_path / "log.csv"
    made_up_log([str(spec_path), str(log)])
    spec = FeatureSpec.load(spec_path)
    reader = Reader(spec, [log], moment=spec.timestamp is not None)
    frames = list(reader.frames())
    assert sum(frame.height for frame in frames) == 3_000
    assert reader.bad.count == 0
    assert {label for frame in frames for label in frame[spec.label].cast(int).to_list()} == {0, 1}
    if spec.timestamp is not None:
        moments = [moment for frame in frames for moment in frame[MOMENT].to_list()]
        assert moments == sorted(moments)


def test_a_log_is_made_up_for_any_field(tmp_path: Path) -> None:
    """Booleans, lists of them, a delimiter of two characters."""
    spec, log = tmp_path / "spec.toml", tmp_path / "log.csv"
    spec.write_text(
        'label = "click"\ndelimiter = "::"\n'
        '[[fields]]\nname = "new"\nkind = "categorical"\nside = "context"\ndtype = "boolean"\n'
        '[[fields]]\nname = "flags"\nkind = "multi_categorical"\nside = "candidate"\n'
        'dtype = "boolean"\n'
    )
    made_up_log([str(spec), str(log)])
    reader = Reader(FeatureSpec.load(spec), [log])
    assert sum(frame.height for frame in reader.frames()) == 3_000
    assert reader.bad.count == 0


def test_a_log_without_a_spec_is_that_of_a_shop(tmp_path: Path) -> None:
    """A user has one country, an item one price, as the page about a first spec shows."""
    subprocess.run(
        [sys.executable, "scripts/made_up_log.py", str(tmp_path / "log.csv")],
        cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    rows = pl.read_csv(tmp_path / "log.csv")
    assert rows.height == 3_000
    for key, decided in (("user_id", "country"), ("item_id", "category"), ("item_id", "price")):
        assert rows.select(key, decided).n_unique() == rows[key].n_unique()


def test_what_is_wrong_with_a_made_up_log_is_one_line(tmp_path: Path) -> None:
    """A spec with an error, a place that cannot be written, a spec that would be written over."""
    spec = tmp_path / "spec.toml"
    spec.write_text("label = 1\nfields = 2\n")
    for words, wanted in (
        ([str(spec), str(tmp_path / "log.csv")], "error: spec.toml: 2 errors"),
        ([str(spec), str(spec)], f"error: {spec} is an input, and must stay"),
        ([str(spec), str(tmp_path)], f"error: {tmp_path} cannot be written: it is a directory"),
        ([], "usage: "),
    ):
        with pytest.raises(SystemExit, match=re.escape(wanted)):
            made_up_log(words)
    assert list(tmp_path.iterdir()) == [spec]
