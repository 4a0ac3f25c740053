"""While Redis fails nobody asks it but the probe, and that at a bounded rate."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from app.errors import Problem
from app.remote import breaker as module
from app.remote.breaker import Breaker
from tests.support.serving import wait_until

pytestmark = pytest.mark.anyio
DOWN, SLOW = Problem("down"), Problem("slow")


class Patient:
    """A Redis to probe: well while ``problem`` is None."""

    def __init__(self, problem: Problem | None) -> None:
        self.problem = problem
        self.probes: list[float] = []

    async def probe(self) -> Problem | None:
        self.probes.append(asyncio.get_running_loop().time())
        return self.problem


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.05)


@asynccontextmanager
async def watched(patient: Patient) -> AsyncIterator[Breaker]:
    """A breaker whose probing runs."""
    breaker = Breaker(patient.probe)
    task = asyncio.create_task(breaker.watch())
    try:
        yield breaker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    await asyncio.to_thread(wait_until, holds, "the breaker's change", 30)


async def test_it_closes_by_the_first_good_probe() -> None:
    """Nothing is asked before Redis has been seen; then everything is."""
    patient = Patient(None)
    assert not Breaker(patient.probe).closed
    async with watched(patient) as breaker:
        await breaker.reached()
        assert breaker.closed
        assert breaker.problem is None


async def test_a_failure_opens_it_and_a_probe_closes_it() -> None:
    """It opens at once, says why, and closes by a probe of its own."""
    async with watched(Patient(None)) as breaker:
        await breaker.reached()
        breaker.trip(DOWN)
        assert not breaker.closed
        assert breaker.problem == DOWN
        await until(lambda: breaker.closed)


async def test_it_stays_open_while_probes_fail() -> None:
    """The latest probe tells what is wrong; when there is nothing, it closes."""
    patient = Patient(DOWN)
    async with watched(patient) as breaker:
        await until(lambda: len(patient.probes) > 4)
        assert not breaker.closed
        assert breaker.problem == DOWN
        patient.problem = None
        await breaker.reached()
        assert breaker.closed


async def test_probes_are_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many failures are told, no more is probed than the pauses allow."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.1)
    patient = Patient(DOWN)
    async with watched(patient) as breaker:
        loop = asyncio.get_running_loop()
        end = loop.time() + 0.5
        while loop.time() < end or len(patient.probes) < 4:
            breaker.trip(DOWN)
            breaker.suspect()
            await asyncio.sleep(0.001)
        # The first failure is followed by a probe at once, the others by pauses.
        gaps = [late - early for early, late in pairwise(patient.probes[1:])]
        assert gaps, "it was probed"
        assert min(gaps) >= 0.1 * 0.8 - 0.01


async def test_good_probes_among_failures_do_not_reset_the_pace() -> None:
    """A Redis that answers probes and fails requests is asked more and more rarely."""
    patient = Patient(None)
    async with watched(patient) as breaker:
        await breaker.reached()
        for _ in range(6):
            await until(lambda: breaker.closed)
            breaker.trip(SLOW)
        assert breaker.backoff.failures == 6
        await until(lambda: breaker.closed)
        breaker.succeed()
        breaker.trip(SLOW)
        assert breaker.backoff.failures == 1


async def test_a_suspicion_is_looked_into() -> None:
    """It stays closed if the probe finds nothing, and opens if it does."""
    patient = Patient(None)
    async with watched(patient) as breaker:
        await breaker.reached()
        breaker.suspect()
        await until(lambda: len(patient.probes) == 2)
        assert breaker.closed
        patient.problem = DOWN
        breaker.suspect()
        await until(lambda: not breaker.closed)
        assert breaker.problem == DOWN


async def test_the_log_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Many changes in a short time are told once."""
    caplog.set_level(logging.INFO)
    async with watched(Patient(None)) as breaker:
        for _ in range(5):
            await until(lambda: breaker.closed)
            breaker.trip(DOWN)
    assert len(caplog.records) == 1
