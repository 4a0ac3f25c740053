"""Who finds room in the queue, and how long those who wait are told to wait."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import DeadlinePassed, NotReady, Overloaded
from app.scoring import batcher as batcher_module
from tests.app.scoring.test_batcher import (
    LATER,
    Busy,
    Waiting,
    batcher,
    job,
    outcome,
    row_of,
    together,
)
from tests.support.fakes import FakeEngine

pytestmark = pytest.mark.anyio


async def test_those_that_come_together_find_the_room_that_is_left() -> None:
    """The rows that were queued before count."""
    engine = FakeEngine()
    async with batcher(engine, max_queue_rows=5) as batches:
        async with Busy(engine, batches):
            (before,) = together(batches, job([[1, 0]] * 4))
            found = together(batches, job([[2, 0]] * 2), job(row_of(3)))
            assert batches.queued_rows == 5
            assert await outcome(found[0]) is Overloaded
        assert [await outcome(before), await outcome(found[1])] == [[1.0] * 4, [3.0]]


async def test_those_that_come_together_wait_behind_the_queue() -> None:
    """A deadline that is in reach for all of them alone is out of reach behind others."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        batches.cost.base, batches.cost.per_row = 0.0, 1.0
        async with Busy(engine, batches):
            (before,) = together(batches, job([[1, 0]] * 20))
            found = together(batches, job(row_of(2), seconds=10), job(row_of(3)))
            assert batches.queued_rows == 21
            assert await outcome(found[0]) is Overloaded
        assert [await outcome(before), await outcome(found[1])] == [[1.0] * 20, [3.0]]


async def test_a_list_longer_than_the_queue_may_wait_for_a_run() -> None:
    """Where nobody waits it finds room, however long it is; then nobody else does."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8, max_queue_rows=10) as batches:
        async with Busy(engine, batches):
            batches.submit(listed := job([[place, 0] for place in range(21)]))
            assert batches.queued_rows == 21
            with pytest.raises(Overloaded, match="full"):
                batches.submit(job(row_of(1)))
        assert isinstance(listed.caller, Waiting)
        assert await outcome(listed.caller.outcome) == list(map(float, range(21)))


async def test_the_queue_may_be_full_before_any_run() -> None:
    """Rows that gather while one lingers, or in a turn of the loop, are no more than it holds."""
    async with batcher(FakeEngine(), linger=LATER, max_queue_rows=10) as batches:
        batches.submit(first := job([[1, 0]] * 8))
        with pytest.raises(Overloaded, match="full"):
            batches.submit(job([[2, 0]] * 3))
        assert batches.queued_rows == 8
    assert isinstance(first.caller, Waiting)
    assert await outcome(first.caller.outcome) is NotReady


async def test_a_wait_has_the_time_of_each_run() -> None:
    """However few rows it has; a run that should have ended already takes nothing off."""
    async with batcher(FakeEngine(), max_rows=10) as batches:
        batches.cost.base, batches.cost.per_row = 1.0, 0.0
        now = asyncio.get_running_loop().time()
        for late in (0, 1_000):
            batches._run_ends = now - late
            waits = [batches._wait(rows, now) for rows in (1, 10, 11, 21)]
            assert waits == pytest.approx([1.1, 1.1, 2.2, 3.3])
        batches._run_ends = now + 2
        assert batches._wait(1, now) == pytest.approx(3.3)


async def test_a_list_that_is_answered_in_part_is_admitted_for_its_first_rows() -> None:
    """They wait for all that is queued before them."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=10) as batches:
        batches.cost.base, batches.cost.per_row = 0.0, 10.0
        async with Busy(engine, batches) as running:
            asked = job([[1, 0]] * 1_000, seconds=200)
            with pytest.raises(Overloaded, match="deadline"):
                batches.submit(asked)
            asked.partial = True
            batches.submit(asked)
            assert batches.queued_rows == 1_000
            with pytest.raises(Overloaded, match="deadline"):
                batches.admit(1, asked.caller.deadline, partial=True)
            batches.cancel(asked)
        await running


async def test_rows_that_are_given_up_leave_their_room_at_once() -> None:
    """Refused lists keep nobody out, however long the run takes that is under way."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8, max_queue_rows=20) as batches:
        async with Busy(engine, batches):
            for _ in range(5):
                batches.submit(refused := job([[1, 0]] * 20))
                assert batches.queued_rows == 20
                batches.cancel(refused)
                batches.cancel(refused)
                assert batches.queued_rows == 0
            batches.submit(kept := job([[2, 0]] * 20))
            assert (batches.queued_rows, batches.abandoned) == (20, 5)
        assert isinstance(kept.caller, Waiting)
        assert await outcome(kept.caller.outcome) == [2.0] * 20
        assert (batches.queued_rows, batches.abandoned) == (0, 5)


async def test_rows_past_their_deadline_leave_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as their caller has been told, which is before the run under way has ended."""
    monkeypatch.setattr(batcher_module, "SWEEP_SECONDS", 0.001)
    engine = FakeEngine()
    async with batcher(engine, max_queue_rows=20) as batches:
        batches.cost.base, batches.cost.per_row = 0.0, 0.0
        async with Busy(engine, batches):
            batches.submit(late := job([[1, 0]] * 20, seconds=0.01))
            assert isinstance(late.caller, Waiting)
            assert await outcome(late.caller.outcome) is DeadlinePassed
            assert (batches.queued_rows, batches.abandoned) == (0, 1)
            batches.submit(kept := job([[2, 0]] * 20))
        assert isinstance(kept.caller, Waiting)
        assert await outcome(kept.caller.outcome) == [2.0] * 20
