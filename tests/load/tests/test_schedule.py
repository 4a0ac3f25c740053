"""The times at which requests are due are fixed before the first one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.load.client import Load
from tests.load.errors import UsageError
from tests.load.run import spread
from tests.load.schedule import Schedule

RATES = st.floats(0.5, 1000)


@given(RATES, st.floats(0, 5), st.floats(0.5, 10))
def test_a_constant_rate_is_evenly_spaced(rate: float, warmup: float, duration: float) -> None:
    """Every gap is 1/rate, and no moment lies outside the run."""
    times = Schedule(rate + 2 / duration).times(-warmup, duration, 1)
    gaps = np.diff(times)
    assert gaps == pytest.approx(1 / (rate + 2 / duration), rel=1e-6, abs=1e-9)
    assert times[0] >= -warmup
    assert times[-1] < duration
    assert len(times) == pytest.approx((warmup + duration) * (rate + 2 / duration), abs=1)


def test_the_stated_rate_is_the_exact_one() -> None:
    """300/s for ten seconds are 3,000 requests, from moment 0 on."""
    times = Schedule(300.0).times(-2.0, 10.0, 1)
    assert np.count_nonzero(times >= 0) == 3000
    assert times[600] == 0.0


def test_random_moments_have_the_rate_and_are_the_seeds() -> None:
    """Poisson arrivals: as many on average, gaps as spread as their mean, the same from a seed."""
    schedule = Schedule(1000.0, poisson=True)
    times = schedule.times(0.0, 100.0, 7)
    assert len(times) == pytest.approx(100_000, rel=0.02)
    assert np.std(np.diff(times)) == pytest.approx(0.001, rel=0.05)
    assert np.array_equal(times, schedule.times(0.0, 100.0, 7))
    assert not np.array_equal(times, schedule.times(0.0, 100.0, 8))
    assert np.all(np.diff(times) >= 0)


def test_a_burst_is_due_at_one_moment_on_top_of_the_rate() -> None:
    """Fifty at each half second, beside ten a second."""
    counts = Counter(Schedule(10.0, burst=50, every=0.5).times(-1.0, 2.0, 1).tolist())
    assert [moment for moment, count in counts.items() if count >= 50] == [
        -1.0, -0.5, 0.0, 0.5, 1.0, 1.5,
    ]  # fmt: skip
    assert counts.total() == 30 + 6 * 50


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Schedule(0.001), "no request is due"),
        (Schedule(1e9), "about 1,"),
        (Schedule(), "no request"),
    ],
)
def test_a_senseless_schedule_is_refused(schedule: Schedule, message: str) -> None:
    """Neither nothing nor more than memory holds."""
    with pytest.raises(UsageError, match=message):
        schedule.times(0.5, 1.5, 1)


@given(st.integers(1, 5), st.integers(0, 40), st.integers(5, 50))
def test_processes_share_all_of_a_load(processes: int, due: int, connections: int) -> None:
    """Every moment belongs to one process, and so does every connection."""
    load = Load("http://x", np.arange(float(due)), False, 0.0, 1.0, [], connections, 1.0, {}, 3)
    loads = spread(load, processes)
    assert sorted(moment for each in loads for moment in each.due.tolist()) == load.due.tolist()
    assert sum(each.connections for each in loads) == connections
    assert all(each.connections for each in loads)
    assert len({each.seed for each in loads}) == processes
