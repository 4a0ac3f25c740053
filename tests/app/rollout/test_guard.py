"""The guard of a canary: a bad one is found within few requests, a good one left alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import log
from statistics import NormalDist

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from app.rollout.guard import (
    LATENCY_BOUNDS,
    WINDOW_SECONDS,
    Figures,
    Guard,
    GuardWatch,
    broken_bound,
    guard_problem,
)

GUARD = Guard()
Generator = np.random.Generator
NORMAL = NormalDist()


@cache
def shares(slower: float) -> NDArray[np.float64]:
    """The shares of seconds between neighbouring bounds: log-normal, median 2 ms or slower."""
    below = [NORMAL.cdf(log(bound / (0.002 * slower)) / 0.6) for bound in LATENCY_BOUNDS]
    return np.diff([0.0, *below, 1.0])


def figures(
    random: Generator, requests: int, *, failing: float = 0.0, slower: float = 1.0,
    score: float = 1.0,
) -> Figures:  # fmt: skip
    """What is counted of requests whose seconds and mean scores scatter as real ones do.

    Seconds are drawn as they are counted; means have a Beta(1, 20) distribution.
    """
    failed = int(random.binomial(requests, failing))
    answered = requests - failed
    bins = random.multinomial(answered, shares(slower))
    means = -score * np.expm1(random.standard_exponential(answered) / -20.0)
    return Figures(
        answered, failed, answered, float(means.sum()), float((means**2).sum()), bins.astype(float)
    )


def test_a_good_canary_is_left_alone() -> None:
    """Over a thousand looks at canaries that differ from the other bundle by chance alone."""
    random = np.random.default_rng(1)
    for _ in range(100):
        for requests in (20, 100, 200, 201, 250, 300, 500, 1_000, 5_000, 20_000):
            other = figures(random, 19 * requests, failing=0.002)
            assert broken_bound(GUARD, other, figures(random, requests, failing=0.002)) is None


@pytest.mark.parametrize(
    ("cause", "bad"),
    [
        ("failures", {"failing": 0.1}),
        ("failures", {"failing": 1.0}),
        ("p99", {"slower": 10.0}),
        ("mean_score", {"score": 2.0}),
        ("mean_score", {"score": 0.4}),
    ],
)
def test_a_bad_canary_is_found(cause: str, bad: dict[str, float]) -> None:
    """Within 400 requests of its own, and not before the least number."""
    random = np.random.default_rng(2)
    for _ in range(50):
        other = figures(random, 4_000)
        found = broken_bound(GUARD, other, figures(random, 400, **bad))
        assert found is not None
        assert found.cause == cause
        assert f"guard.{'p99_ratio' if cause == 'p99' else cause}" in found.reason
        assert broken_bound(GUARD, other, figures(random, 199, **bad)) is None


def test_a_bound_that_is_absent_is_not_looked_at() -> None:
    random = np.random.default_rng(3)
    guard = Guard(failures=None, p99_ratio=None, mean_score_ratio=None)
    bad = figures(random, 9_000, failing=0.5, slower=10, score=3)
    assert broken_bound(guard, figures(random, 9_000), bad) is None


def test_what_fails_for_both_is_not_the_canarys_fault() -> None:
    """A store or a machine that is away; a canary that fails more often is found all the same."""
    random = np.random.default_rng(4)
    other = figures(random, 9_000, failing=0.3)
    assert broken_bound(GUARD, other, figures(random, 900, failing=0.3)) is None
    found = broken_bound(GUARD, other, figures(random, 900, failing=0.5))
    assert found is not None
    assert found.cause == "failures"


def test_few_rows_of_the_other_bundle_say_nothing() -> None:
    """A share of 1 leaves nothing to compare with but failures."""
    random = np.random.default_rng(5)
    none = figures(random, 0)
    assert broken_bound(GUARD, none, figures(random, 9_000, slower=10, score=3)) is None
    found = broken_bound(GUARD, none, figures(random, 900, failing=0.1))
    assert found is not None
    assert found.cause == "failures"


@pytest.mark.parametrize(
    ("clicks", "broken"), [(100, False), (125, False), (160, True), (80, False), (40, True)]
)
def test_clicks_are_compared_with_predicted_ones(clicks: int, broken: bool) -> None:
    random = np.random.default_rng(6)
    canary = figures(random, 300)._replace(events=2_000, predicted=100.0, clicks=clicks)
    found = broken_bound(Guard(calibration=(0.8, 1.25)), figures(random, 9_000), canary)
    assert (found is not None) is broken
    assert found is None or found.cause == "calibration"
    assert broken_bound(GUARD, figures(random, 9_000), canary) is None


@pytest.mark.slow
def test_a_canary_that_becomes_bad_is_found() -> None:
    """After days that were good: what is judged is the last of it."""
    random = np.random.default_rng(7)
    watch, now = GuardWatch(GUARD), 0.0
    other = canary = figures(random, 0)

    def add(**bad: float) -> object:
        nonlocal other, canary
        other = added(other, figures(random, 95))
        canary = added(canary, figures(random, 5, **bad))
        return watch.look(now, other, canary)

    for _ in range(20_000):
        now += 0.1
        assert add() is None
    began = now
    while add(score=2.0) is None:
        now += 0.1
        assert now - began < WINDOW_SECONDS
    assert len(watch._kept) < 2 * WINDOW_SECONDS


def test_feedback_that_comes_late_is_judged() -> None:
    """Its events are those of all of the trial, as a window of requests would have none."""
    random = np.random.default_rng(8)
    watch, canary = GuardWatch(Guard(calibration=(0.8, 1.25))), figures(random, 0)
    canary = canary._replace(events=5_000, predicted=500.0, clicks=500.0)
    other, found = figures(random, 0), None
    for second in range(600):
        other = added(other, figures(random, 900))
        told = canary._replace(events=5_000 + second, predicted=500.0 + second / 10)
        canary = added(told, figures(random, 100))
        found = watch.look(float(second), other, canary)
        if found is not None:
            break
    assert found is not None
    assert found.cause == "calibration"
    assert "0 clicks came" in found.reason


def added(one: Figures, two: Figures) -> Figures:
    return Figures(*(a + b for a, b in zip(one, two, strict=True)))


@pytest.mark.parametrize(
    "made", [lambda: Guard(mean_score_ratio=(2, 1)), lambda: Guard(calibration=(1.1, 1.0))]
)
def test_a_range_the_wrong_way_round_is_told(made: Callable[[], Guard]) -> None:
    assert "is above" in (guard_problem(made()) or "")
    assert guard_problem(GUARD) is None


def test_bounds_survive_the_state_file() -> None:
    for guard in (GUARD, Guard(rows=20, failures=None, calibration=(0.5, 2.0))):
        assert msgspec.json.decode(msgspec.json.encode(guard), type=Guard) == guard
