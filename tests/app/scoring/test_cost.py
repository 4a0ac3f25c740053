"""The cost model predicts the time of runs from the runs so far."""

from __future__ import annotations

import random

import pytest

from app.scoring.cost import CostModel


def learned(base: float, per_row: float, runs: int, noise: float) -> CostModel:
    """A model that saw runs of random sizes that took base + per_row·rows, more or less."""
    numbers, cost = random.Random(1), CostModel()
    for _ in range(runs):
        rows = numbers.randint(1, 256)
        seconds = (base + per_row * rows) * numbers.uniform(1 - noise, 1 + noise)
        cost.observe(rows, seconds)
    return cost


def test_cost_of_runs_is_learned() -> None:
    """Cost per run and per row are found from runs of many sizes, noise or not."""
    exact = learned(2e-4, 1e-5, 300, 0.0)
    assert exact.base == pytest.approx(2e-4, rel=1e-6)
    assert exact.per_row == pytest.approx(1e-5, rel=1e-6)
    noisy = learned(2e-4, 1e-5, 300, 0.2)
    assert noisy.seconds(256) == pytest.approx(2e-4 + 256e-5, rel=0.1)
    assert noisy.seconds(2_560, 10) == pytest.approx(10 * (2e-4 + 256e-5), rel=0.1)


def test_cost_follows_a_change() -> None:
    """Old runs are forgotten: after a slow-down the prediction is the new cost."""
    cost = learned(2e-4, 1e-5, 300, 0.1)
    for rows in [10, 250] * 200:
        cost.observe(rows, 1e-3 + 1e-4 * rows)
    assert cost.base == pytest.approx(1e-3, rel=0.05)
    assert cost.per_row == pytest.approx(1e-4, rel=0.05)


def test_cost_is_never_negative() -> None:
    """Whatever the observations, neither part goes below zero, and equal sizes are enough."""
    for rows, seconds in [([1, 256] * 50, [1e-3, 1e-6] * 50), ([64] * 100, [1e-3] * 100),
                          ([1, 2] * 50, [0.0, 1.0] * 50)]:  # fmt: skip
        cost = CostModel()
        for size, taken in zip(rows, seconds, strict=True):
            cost.observe(size, taken)
            assert cost.base >= 0
            assert cost.per_row >= 0
    same = CostModel()
    for _ in range(100):
        same.observe(64, 1e-3)
    assert same.seconds(64) == pytest.approx(1e-3)


def test_cost_before_any_run_is_a_guess_of_a_fast_engine() -> None:
    """A first guess that is too high would refuse requests that nobody has tried to serve."""
    cost = CostModel()
    assert cost.runs == 0
    assert cost.seconds(100) == pytest.approx(1e-4 + 100 * 1e-5)


def test_one_run_is_predicted_as_it_was() -> None:
    """A run that is faster than the guess lowers the cost of a row to what was seen."""
    cost = CostModel()
    cost.observe(1_000, 1e-3)
    assert cost.runs == 1
    assert cost.per_row == pytest.approx(1e-6)
    assert cost.base == pytest.approx(0, abs=1e-12)
    cost.observe(1_000, 1e-3)
    assert cost.runs == 2


def test_each_run_costs_its_base() -> None:
    """The same rows in ten runs cost nine bases more."""
    cost = learned(2e-4, 1e-5, 300, 0.0)
    assert cost.seconds(10, 10) - cost.seconds(10) == pytest.approx(9 * 2e-4, rel=1e-6)
