"""A list that is alone keeps the engine busy; whoever else comes waits for one run, as before."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from app.errors import DeadlinePassed, EngineFailed, NotReady
from app.features.graph_inputs import Batch, Scores
from app.scoring.job import Job
from app.scoring.job_queue import SHARING_SECONDS
from tests.app.scoring.test_batcher import (
    LATER,
    Busy,
    Waiting,
    batcher,
    job,
    outcome,
    score,
    until,
)
from tests.support.fakes import FakeEngine

pytestmark = pytest.mark.anyio


def block_until(condition: Callable[[], object]) -> None:
    """Hold the event loop until something is so; the test's timeout is the limit."""
    while not condition():
        time.sleep(0.001)


async def lone_list(engine: FakeEngine, batches: object, rows: int) -> tuple[Job, asyncio.Task]:
    """A list in its first run, which waits at the engine's gate."""
    engine.gate.clear()
    listed = job([[place, 0] for place in range(rows)])
    task = asyncio.create_task(score(batches, listed))  # type: ignore[arg-type]
    await until(engine.entered.is_set)
    return listed, task


async def test_the_engine_goes_on_while_the_loop_is_held() -> None:
    """The thread has the next run of a list before the loop is told of the one before."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8) as batches:
        listed, task = await lone_list(engine, batches, 24)
        assert batches.queued_rows == 16, "what is handed ahead is still queued"
        engine.gate.set()
        block_until(lambda: len(engine.batches) == 2)
        assert (listed.done, batches.queued_rows) == (0, 16), "the loop does not know yet"
        assert await outcome(task) == [float(place) for place in range(24)]
        assert batches.queued_rows == 0
    assert engine.rows == [8, 8, 8]


async def test_rows_that_become_ready_are_handed_ahead() -> None:
    """As soon as there are enough of them; the last ones in any case."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8) as batches:
        engine.gate.clear()
        listed = job([[place, 0] for place in range(20)])
        listed.ready = 8
        task = asyncio.create_task(score(batches, listed))
        await until(engine.entered.is_set)
        listed.ready = 10
        batches.submit(listed)
        assert batches._ahead is None, "two rows are not worth a run"
        listed.ready = 14
        batches.submit(listed)
        assert batches._ahead == (listed, 8, 14)
        listed.ready = 20
        batches.submit(listed)
        engine.gate.set()
        assert await outcome(task) == [float(place) for place in range(20)]
    assert engine.rows == [8, 6, 6]


async def test_a_growing_list_goes_on_after_its_run_ahead() -> None:
    """The loop learns late of a run that took all that was ready; the rest is still to come."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8) as batches:
        engine.gate.clear()
        listed = job([[place, 0] for place in range(24)])
        listed.ready = 16
        task = asyncio.create_task(score(batches, listed))
        await until(engine.entered.is_set)
        engine.gate.set()
        block_until(lambda: len(engine.batches) == 2)
        await until(lambda: listed.done == 16)
        assert (batches.queued_rows, batches.abandoned) == (8, 0)
        listed.ready = 24
        batches.submit(listed)
        assert await outcome(task) == [float(place) for place in range(24)]
    assert engine.rows == [8, 8, 8]


async def test_the_last_rows_of_a_list_are_handed_ahead_however_few() -> None:
    """No more come that they could wait for."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8) as batches:
        listed, task = await lone_list(engine, batches, 9)
        assert batches._ahead == (listed, 8, 9)
        engine.gate.set()
        assert await outcome(task) == [float(place) for place in range(9)]
    assert engine.rows == [8, 1]


@pytest.mark.parametrize("rows", [1, 24], ids=["a short request", "another list"])
async def test_whoever_comes_takes_its_turn_after_one_run(rows: int) -> None:
    """Rows that were handed ahead are taken back, and turns are taken as without them."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8) as batches:
        listed, task = await lone_list(engine, batches, 24)
        assert batches._ahead == (listed, 8, 16)
        other = asyncio.create_task(score(batches, job([[99, 0]] * rows)))
        await until(lambda: batches.queued_rows == 16 + rows)
        assert batches._ahead is None
        engine.gate.set()
        assert await outcome(other) == [99.0] * rows
        assert await outcome(task) == [float(place) for place in range(24)]
    first = [batch.candidate[0, 0] for batch in engine.batches]
    assert 99 in first[1:3], "it waits for one run of the list at most"


async def test_nothing_is_handed_ahead_while_short_requests_come_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another one is expected, and it must not wait for two runs."""
    engine = FakeEngine()
    # However long the short one takes.
    monkeypatch.setattr("app.scoring.job_queue.SHARING_SECONDS", LATER)
    async with batcher(engine, max_rows=8) as batches:
        async with Busy(engine, batches):
            pass
        engine.entered.clear()
        _, task = await lone_list(engine, batches, 24)
        assert batches._ahead is None
        engine.gate.set()
        await task
        batches._queue._short_seen -= LATER
        engine.entered.clear()
        _, task = await lone_list(engine, batches, 24)
        assert batches._ahead is not None
        engine.gate.set()
        await task


async def test_nothing_is_handed_ahead_of_a_short_request_that_waits() -> None:
    """However long ago it came: a run may take longer than another one is expected for."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8) as batches:
        engine.gate.clear()
        listed = job([[place, 0] for place in range(24)])
        listed.ready = 8
        task = asyncio.create_task(score(batches, listed))
        await until(engine.entered.is_set)
        batches.submit(short := job([[99, 0]]))
        batches._queue._short_seen -= SHARING_SECONDS
        listed.ready = 24
        batches.submit(listed)
        assert batches._ahead is None
        engine.gate.set()
        assert isinstance(short.caller, Waiting)
        assert await outcome(short.caller.outcome) == [99.0]
        assert await outcome(task) == [float(place) for place in range(24)]
    assert engine.rows[:2] == [8, 1]


async def test_a_list_is_not_handed_ahead_of_the_last_run_of_another() -> None:
    """Nor is one that is late, though nobody has told its caller yet."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8) as batches:
        _, task = await lone_list(engine, batches, 8)
        batches.submit(other := job([[99, 0]] * 8))
        assert batches._ahead is None
        engine.gate.set()
        assert isinstance(other.caller, Waiting)
        assert await outcome(other.caller.outcome) == [99.0] * 8
        await task
        engine.entered.clear()
        engine.gate.clear()
        late = job([[1, 0]] * 24)
        late.ready = 8
        batches.submit(late)
        await until(engine.entered.is_set)
        late.caller.deadline, late.ready = 0, 24
        batches.submit(late)
        assert batches._ahead is None
        engine.gate.set()
        assert await outcome(late.caller.outcome) is DeadlinePassed  # type: ignore[attr-defined]
    assert engine.rows == [8, 8, 8]


@pytest.mark.parametrize("way", ["cancelled", "departed", "late"])
async def test_a_list_that_is_given_up_is_run_no_further(way: str) -> None:
    """What was handed ahead is not scored, and its rows leave the queue."""
    engine, gone = FakeEngine(), []
    async with batcher(engine, max_rows=8) as batches:
        engine.gate.clear()
        listed = job([[1, 0]] * 24, departed=lambda: bool(gone))
        batches.submit(listed)
        await until(engine.entered.is_set)
        assert batches._ahead is not None
        if way == "cancelled":
            batches.cancel(listed)
        elif way == "departed":
            gone.append(True)
        else:
            listed.caller.deadline = 0
            await until(lambda: listed.answered)
        engine.gate.set()
        await until(lambda: batches.idle)
        assert batches.queued_rows == 0
        assert isinstance(listed.caller, Waiting)
        listed.caller.outcome.cancel()
    assert engine.rows == [8]


@pytest.mark.parametrize(
    ("rows", "ready", "dropped"),
    [(24, 16, 1), (24, 24, 1), (16, 16, 0)],
    ids=["growing", "queued", "in its last run"],
)
async def test_a_list_may_be_given_up_in_its_run_ahead(rows: int, ready: int, dropped: int) -> None:
    """The loop learns of the run after that; rows that no run has leave the queue, counted once."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8) as batches:
        engine.gate.clear()
        listed = job([[1, 0]] * rows)
        listed.ready = ready
        batches.submit(listed)
        await until(engine.entered.is_set)
        assert batches._ahead is not None
        engine.gate.set()
        block_until(lambda: len(engine.batches) == 2)
        batches.cancel(listed)
        await until(lambda: batches.idle)
        assert (batches.queued_rows, batches.abandoned) == (0, dropped)
        assert isinstance(listed.caller, Waiting)
        listed.caller.outcome.cancel()
    assert engine.rows == [8, 8]


async def test_after_a_failed_run_the_list_is_run_no_further() -> None:
    """Its rest would be scored for nobody."""

    def fail(batch: Batch, scores: Scores) -> Scores:
        raise EngineFailed("no")

    engine = FakeEngine(fail)
    async with batcher(engine, max_rows=8) as batches:
        _, task = await lone_list(engine, batches, 24)
        engine.gate.set()
        block_until(lambda: not batches._runs._watch.run)
        assert await outcome(task) is EngineFailed
        await until(lambda: batches.idle)
        assert batches.queued_rows == 0
    assert engine.rows == [8]


async def test_leaving_begins_no_run_that_was_handed_ahead() -> None:
    """Callers have their answer; the thread ends after its run."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8) as batches:
        _, task = await lone_list(engine, batches, 24)
        thread = batches._runs._thread
    assert await outcome(task) is NotReady
    engine.gate.set()
    await asyncio.to_thread(thread.join)
    assert engine.rows == [8]


async def test_rows_handed_ahead_count_for_the_deadlines_of_others() -> None:
    """As all queued rows do: once, before their run and within it."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8) as batches:
        batches.cost.base, batches.cost.per_row = 0.0, 1.0
        _, task = await lone_list(engine, batches, 16)
        now = asyncio.get_running_loop().time()
        assert batches._ahead is not None
        assert 1.1 * 16 < batches._wait(batches.queued_rows + 1, now) < 1.1 * 18
        engine.gate.set()
        await task


@pytest.mark.parametrize("seed", range(4))
async def test_each_caller_has_its_own_scores_whoever_comes_and_goes(seed: int) -> None:
    """Growing lists, short requests and callers that leave, in any order and at any moment."""
    draws, engine = random.Random(seed), FakeEngine()

    def slowly(batch: Batch, scores: Scores) -> Scores:
        time.sleep(draws.choice([0, 0, 0.0005]))
        return scores

    engine.spoil = slowly

    async def ask(number: int) -> None:
        await asyncio.sleep(draws.random() * 0.05)
        rows = draws.choice([1, 3, 20, 50, 200])
        asked = job([[number, place] for place in range(rows)])
        asked.ready = min(rows, draws.choice([8, 40, 400]))
        task = asyncio.create_task(score(batches, asked))
        await asyncio.sleep(0)
        while asked.ready < rows:
            await asyncio.sleep(draws.choice([0, 0, 0.001]))
            if draws.random() < 0.03:
                batches.cancel(asked)
                task.cancel()
                return
            asked.ready = min(rows, asked.ready + draws.choice([1, 8, 30]))
            batches.submit(asked)
        if draws.random() < 0.1:
            task.cancel()
            return
        assert await outcome(task) == [float(number + place) for place in range(rows)]

    async with batcher(engine, max_rows=32) as batches:
        await asyncio.gather(*(ask(number) for number in range(60)))
        await until(lambda: batches.idle)
        assert batches.queued_rows == 0
    assert max(engine.rows) <= 32
