"""Times of a fit: steps alone make its speed, and those of killed processes count once."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model import progress
from model.training import fit as fitting
from model.training.checkpoint import Checkpoints
from model.training.evaluation import Evaluation
from model.training.fit import FitResult, fit
from model.training.trainer import Trainer
from tests.support.clicks import CONFIG, LAYOUT, dataset

pytestmark = pytest.mark.slow

STEP, EVALUATION, CHECKPOINT = 2.0, 1_000.0, 50_000.0


class Clock:
    """A clock that goes on by what is done: a step, an evaluation, a checkpoint."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._now = 10_000.0
        monkeypatch.setattr(fitting, "time", SimpleNamespace(perf_counter=lambda: self._now))
        self._lasts(Trainer, "step", STEP)
        self._lasts(fitting, "evaluated", EVALUATION)
        self._lasts(Checkpoints, "write", CHECKPOINT)

    def _lasts(self, owner: Any, name: str, seconds: float) -> None:
        usual = getattr(owner, name)

        def slower(*given: Any) -> Any:
            self._now += seconds
            return usual(*given)

        self._monkeypatch.setattr(owner, name, slower)


def trained(**others: Any) -> FitResult:
    """Fit quietly: 10 steps of 64 rows, with evaluations at 2, 5, 8 and 10."""
    return fit(LAYOUT, dataset(320), dataset(200, seed=1), CONFIG, False, **others)


def test_speed_is_that_of_the_steps_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Evaluations and checkpoints take no part, and seconds before a kill count once."""
    Clock(monkeypatch)

    def run(until: int) -> FitResult:
        """Train, with checkpoints at 3, 6 and 9, until an evaluation ends the process."""

        def end(evaluation: Evaluation) -> None:
            if evaluation.step == until:
                raise InterruptedError

        checkpoints = Checkpoints(tmp_path / "run", 0, 3, resume=True)
        checkpoints.begin()
        return trained(after=end, checkpoints=checkpoints)

    for until in (5, 8):
        with pytest.raises(InterruptedError):
            run(until)
    result = run(0)
    assert [each.rows_per_second for each in result.history] == [64 / STEP] * 4
    assert result.rows_per_second == 64 / STEP
    # Each of the first two gets to its checkpoint by three steps and an evaluation; the last one
    # takes four steps, two evaluations and a checkpoint.
    before = 2 * (3 * STEP + EVALUATION)
    assert result.seconds == before + 4 * STEP + 2 * EVALUATION + CHECKPOINT


def test_time_of_given_weights_is_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation before the first step is a pause like the others."""
    Clock(monkeypatch)
    result = trained(begin=lambda network: None)
    assert [each.rows_per_second for each in result.history] == [0.0, *[64 / STEP] * 4]


def test_the_progress_of_a_resumed_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """From the share that was done before."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "MAX_LINE_SECONDS", 0.0)
    checkpoints = Checkpoints(tmp_path / "run", 0, 6, resume=True)
    trained(checkpoints=checkpoints)
    checkpoints.begin()
    capsys.readouterr()
    parts = dataset(320), dataset(200, seed=1)
    fit(LAYOUT, *parts, CONFIG, True, checkpoints=checkpoints)
    shares = re.findall(r"training: (\d+)%", capsys.readouterr().err)
    assert shares == ["60", "70", "80", "90"]
