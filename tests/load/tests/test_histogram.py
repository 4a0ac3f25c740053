"""Durations are counted with a stated precision, whatever their size."""

from __future__ import annotations

import math
import pickle
import re
import statistics
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.load.histogram import PRECISION, Histogram

DURATIONS = st.integers(0, 10**12)
PERCENTS = st.sampled_from([0.1, 1.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0])


def filled(values: list[int]) -> Histogram:
    """A histogram of some durations."""
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def exact(values: list[int], percent: float, lost: int) -> float:
    """The smallest duration that at least ``percent`` of all stay within."""
    ordered = sorted(values) + [math.inf] * lost
    share = Fraction(str(percent)) / 100
    return next(
        value for number, value in enumerate(ordered, 1) if Fraction(number, len(ordered)) >= share
    )


@given(st.lists(DURATIONS, min_size=1), PERCENTS, st.integers(0, 5))
def test_a_percentile_is_never_below_the_true_one_and_hardly_above(
    values: list[int], percent: float, lost: int
) -> None:
    """At most one part in 1,024 above; endless where it falls among what was lost."""
    true = exact(values, percent, lost)
    found = filled(values).percentile(percent, lost)
    assert true <= found <= true * (1 + PRECISION)
    assert found <= max(values) or true == math.inf


@given(st.lists(DURATIONS), st.lists(DURATIONS))
def test_merged_is_as_if_counted_together(left: list[int], right: list[int]) -> None:
    """Nothing is lost between processes, pickling included."""
    merged = filled(left)
    merged.merge(pickle.loads(pickle.dumps(filled(right))))
    together = filled(left + right)
    assert merged.distribution() == together.distribution()
    assert (merged.count, merged.smallest, merged.largest, merged.mean) == (
        together.count, together.smallest, together.largest, together.mean,
    )  # fmt: skip


@given(st.lists(st.integers(0, 10**9), min_size=1))
def test_mean_and_deviation_are_exact(values: list[int]) -> None:
    """They come from sums, not from buckets."""
    histogram = filled(values)
    assert histogram.mean == pytest.approx(statistics.fmean(values))
    assert histogram.deviation == pytest.approx(statistics.pstdev(values), rel=1e-6, abs=1e-6)


def test_nothing_counted_has_no_percentile() -> None:
    """An empty histogram answers infinity, which meets no bound."""
    assert Histogram().percentile(50.0) == math.inf
    assert filled([5]).percentile(99.0, lost=1) == math.inf


def test_a_clock_that_steps_back_counts_as_nothing() -> None:
    """A negative duration is 0."""
    assert filled([-3]).largest == 0


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=300))
def test_the_distribution_is_the_one_that_plotters_read(values: list[int]) -> None:
    """Value, percentile, count and 1/(1-percentile), ascending to 100 %, then a footer."""
    lines = filled(values).distribution().splitlines()
    assert lines[0].split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    rows = [line.split() for line in lines[2:-3]]
    shares = [float(row[1]) for row in rows]
    counts = [int(row[2]) for row in rows]
    assert (shares[-1], counts[-1]) == (1.0, len(values))
    assert shares == sorted(set(shares))
    for value, share, count, *_ in rows:
        within = sum(each <= float(value) * 1000 + 0.5 for each in values)
        assert within == int(count)
        assert float(share) == pytest.approx(within / len(values))
    assert all(re.match(r"#\[(Mean|Max|Buckets) +=", line) for line in lines[-3:])
