"""The bounds that a bundle must keep before it takes the place of another one by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app.bundle.bundle import Bundle
from app.errors import CtrError
from app.rollout.gate import Figures, Gate
from app.rollout.golden_change import GoldenChange

FULL = """\
[same_test]
auc_lost = 0.002
log_loss_added = 0.01
[test]
min_auc = 0.6
max_log_loss = 0.7
calibration = [0.9, 1.1]
[golden]
mean_score_ratio = [0.5, 2.0]
max_changed_top = 0.5
"""
GOOD = {"auc": 0.7, "log_loss": 0.5, "calibration": 1.0}
FILES = [{"part": "train", "sha256": "aa"}]


def gate(path: Path, text: str = FULL) -> Gate:
    file = path / "gate.toml"
    file.write_text(text, encoding="utf-8")
    return Gate.load(file)


def figures(
    name: str = "new", split: object = "random", files: list[dict[str, str]] = FILES, **test: Any
) -> Figures:
    return Figures.described(name, {"test": {**GOOD, **test}}, files, split)


def test_a_bundle_that_keeps_every_bound_has_no_problem(tmp_path: Path) -> None:
    """Bounds are inclusive: what is just allowed passes."""
    bounds = gate(tmp_path, FULL.replace("0.002", "0.25").replace("0.01", "0.25"))
    new = figures(auc=0.75, log_loss=0.75 - 0.125)
    assert bounds.figure_problems(new, figures("used", auc=1.0, log_loss=0.5)) == []
    assert bounds.golden_problems(GoldenChange(2.0, 0.5, 10), "used") == []


@pytest.mark.parametrize(
    ("test", "problem"),
    [
        ({"auc": 0.59}, "its AUC is 0.5900; test.min_auc is 0.6"),
        ({"auc": None}, "its AUC is nan; test.min_auc is 0.6"),
        ({"log_loss": 0.71}, "its log loss is 0.7100; test.max_log_loss is 0.7"),
        ({"calibration": 1.2}, "it predicts 1.200 of the observed clicks; test.calibration is"),
        ({"calibration": None}, "it predicts nan of the observed clicks"),
        ({"auc": 0.697}, "it loses 0.0030 of the AUC of used on the same test data"),
        ({"log_loss": 0.52}, "it adds 0.0200 to the log loss of used on the same test data"),
    ],
)
def test_each_bound_is_told(tmp_path: Path, test: Mapping[str, Any], problem: str) -> None:
    problems = gate(tmp_path).figure_problems(figures(**test), figures("used"))
    assert any(each.startswith(problem) for each in problems), problems


def test_golden_bounds_are_told(tmp_path: Path) -> None:
    bounds = gate(tmp_path)
    ratio, top = bounds.golden_problems(GoldenChange(2.5, 0.6, 10), "used")
    assert ratio.startswith("its mean score of the golden requests is 2.500 times that of used")
    assert top.startswith("60% of the first 10 candidates of the golden requests are others")
    (nan,) = bounds.golden_problems(GoldenChange(float("nan"), 0.0, 10), "used")
    assert "nan times" in nan


def test_other_test_data_need_bounds_of_their_own(tmp_path: Path) -> None:
    """Figures of other rows are not compared, and no bundle passes unmeasured."""
    strict = gate(tmp_path, "[same_test]\n")
    used = figures("used", auc=0.9)
    assert strict.figure_problems(figures(), used) != []
    for other in (figures(split="by time"), figures(files=[{"part": "train", "sha256": "bb"}])):
        (problem,) = strict.figure_problems(other, used)
        assert problem.startswith("its test data are not those of used")
        assert gate(tmp_path).figure_problems(other, used) == []


def test_a_test_file_of_its_own_is_what_counts() -> None:
    """The training data may be other ones, as they are every day; the test file is the same."""
    test = {"part": "test", "sha256": "cc"}
    monday = figures(files=[{"part": "train", "sha256": "aa"}, test])
    tuesday = figures(files=[{"part": "train", "sha256": "bb"}, test])
    assert monday.measured_as(tuesday)
    assert not monday.measured_as(figures())
    assert not figures(files=[]).measured_as(figures(files=[]))


def test_figures_of_a_bundle(tiny_bundle: Path, other_bundle: Path) -> None:
    """The manifest has what the gate asks for; both bundles are of one file."""
    tiny, other = (Figures.of(Bundle.open(each).manifest) for each in (tiny_bundle, other_bundle))
    assert tiny.name == tiny_bundle.name
    assert {"auc", "log_loss", "calibration"} <= set(tiny.test)
    assert tiny.measured_as(other)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the gate has no bounds"),
        ("[tests]\nmin_auc = 0.6\n", "unknown field `tests`"),
        ("[test]\nmin_acu = 0.6\n", "unknown field `min_acu`"),
        ("[test]\nmin_auc = 6\n", r"<= 1(.0)? - at `\$.test.min_auc`"),
        ('[test]\nmin_auc = "0.6"\n', r"`\$.test.min_auc`"),
        ("[same_test]\nauc_lost = -0.1\n", r">= 0(.0)? - at `\$.same_test.auc_lost`"),
        ("[test]\ncalibration = [1.1, 0.9]\n", "test.calibration: 1.1 is above 0.9"),
        ("[golden]\nmean_score_ratio = [2, 1]\n", "golden.mean_score_ratio: 2 is above 1"),
        ("[test]\ncalibration = [nan, 1]\n", "calibration"),
        ("[test\n", "not TOML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(CtrError, match=problem) as error:
        gate(tmp_path, text)
    assert "gate.toml" in str(error.value)
