"""The whole way round, unattended: each fault that is caused is found by what is there for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.fetch import MOVIELENS_REQUIREMENT, DownloadFailed, fetch
from tests.drills.loop.circle import BROKEN_JOIN, CANARY, SKEW, Circle
from tests.drills.loop.people import SEEN, Ratings
from tests.support.registry import skip_without_registry

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.network, pytest.mark.timeout(3600)]


def test_served_joined_trained_gated_taken_up(tmp_path: Path) -> None:
    """Four small days on MovieLens: a bundle of a broken join is held by the gate, values that were
    rewritten behind the log are named by replay, a canary that scores too high is stopped."""
    try:
        data = fetch("movielens-100k", tmp_path / "data")
    except DownloadFailed:
        skip_without_registry(MOVIELENS_REQUIREMENT, tmp_path)
        raise
    ratings = Ratings.cut(data / "ratings.csv", tmp_path, days=4, share=0.25, seed=1)
    days = list(Circle(tmp_path, ratings, seed=1, guard_rows=50).run(print))
    assert len(days) == 4
    for day, frame in zip(days, ratings.days, strict=True):
        assert SEEN * 100 < day.rows < frame.height
        assert day.auc is not None
        assert 0.55 < day.auc < 0.95
        assert 0.5 < day.predicted_over_observed < 2
    assert days[0].taken_up, days[0].why
    assert days[1].served == days[0].trained
    assert not days[BROKEN_JOIN].taken_up
    assert "held by the gate: " in days[BROKEN_JOIN].why
    assert days[2].served == days[1].served
    assert days[SKEW].skewed_fields == ["age"]
    assert "guard.calibration" in days[CANARY].canary
    assert [bool(day.canary) for day in days] == [number == CANARY for number in range(4)]
    assert [bool(day.skewed_fields) for day in days] == [number == SKEW for number in range(4)]
