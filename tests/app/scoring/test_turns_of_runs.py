"""When a run begins and where, and what is promised to those who wait for it."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from app.errors import DeadlinePassed, EngineFailed, NotReady, Overloaded
from app.features.graph_inputs import Batch, Scores
from app.scoring.batcher import LEARNING_RUNS, SWEEP_SECONDS
from app.scoring.job import Closed, Job
from tests.app.scoring.test_batcher import (
    INLINE,
    LATER,
    Busy,
    Waiting,
    batcher,
    growing,
    job,
    outcome,
    row_of,
    score,
    until,
)
from tests.support.fakes import FakeEngine

pytestmark = pytest.mark.anyio


def done(asked: Job) -> bool:
    """Tell whether a job has its outcome."""
    assert isinstance(asked.caller, Waiting)
    return asked.caller.outcome.done()


async def test_a_quick_request_runs_at_once_where_nothing_is_in_its_way() -> None:
    """Not while others may come, beside a run, for nobody, or with another of its turn."""
    engine = FakeEngine()
    async with batcher(engine, inline_seconds=INLINE, linger=0.001) as batches:
        batches.submit(lingers := job(row_of(1)))
        assert not done(lingers)
        assert batches.queued_rows == 1
        await until(lambda: done(lingers))
    engine = FakeEngine()
    async with batcher(engine, inline_seconds=INLINE, max_rows=8) as batches:
        batches.submit(first := job(row_of(2)))
        batches.submit(second := job(row_of(3)))
        assert (done(first), done(second)) == (True, False)
        assert 0 < first.caller.encoded <= first.caller.begun <= first.caller.ended
        await until(lambda: done(second))
        for nobody in (job(row_of(4), departed=lambda: True), job(row_of(5), seconds=-0.001)):
            await asyncio.sleep(0)
            batches.submit(nobody)
            assert isinstance(nobody.caller, Waiting)
            assert await outcome(nobody.caller.outcome) is DeadlinePassed
        assert engine.rows == [1, 1]
        engine.entered.clear()
        engine.gate.clear()
        batches.submit(part := growing(9, ready=4))
        await until(engine.entered.is_set)
        batches.submit(beside := job(row_of(6)))
        assert not done(beside)
        assert batches.queued_rows == 6
        engine.gate.set()
        await until(lambda: done(beside) and part.done == 4)
        batches.cancel(part)
    assert engine.rows == [1, 1, 4, 1]


async def test_a_quick_request_may_be_as_large_as_a_run() -> None:
    """One row more, and it waits for the end of the turn; those that follow do not overtake it."""
    async with batcher(FakeEngine(), inline_seconds=INLINE, max_rows=8) as batches:
        batches.submit(whole := job([[1, 0]] * 8))
        assert done(whole)
        await asyncio.sleep(0)
        batches.submit(larger := job([[1, 0]] * 9))
        batches.submit(after := job(row_of(2)))
        assert (done(larger), done(after)) == (False, False)
        assert batches.queued_rows == 10
        await until(lambda: done(larger) and done(after))


@pytest.mark.parametrize(("rows", "on_loop"), [(1, True), (10, False)])
async def test_a_run_is_as_quick_as_its_rows(rows: int, on_loop: bool) -> None:
    """Many of them leave the loop free where one does not hold it up."""
    names: list[str] = []

    def note(batch: Batch, scores: Scores) -> Scores:
        names.append(threading.current_thread().name)
        return scores

    async with batcher(FakeEngine(note), inline_seconds=0.05) as batches:
        batches.cost.base, batches.cost.per_row = 0.0, 0.01
        await score(batches, job([[1, 0]] * rows))
    assert [name.startswith("engine") for name in names] == [not on_loop]


async def test_one_list_that_grows_is_enough_to_leave_the_loop_free() -> None:
    """Though others of its run are complete."""
    names: list[str] = []

    def note(batch: Batch, scores: Scores) -> Scores:
        names.append(threading.current_thread().name)
        return scores

    async with batcher(FakeEngine(note), inline_seconds=INLINE) as batches:
        batches.submit(part := growing(3, ready=2))
        batches.submit(other := job(row_of(9)))
        await until(lambda: done(other) and part.done == 2)
        batches.cancel(part)
    assert [name.startswith("engine") for name in names] == [True]


async def test_one_run_begins_after_a_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many came in it: a second one would begin beside a run that may be under way."""
    async with batcher(FakeEngine(), linger=0.001) as batches:
        begun, run = [], batches._run

        def counted() -> None:
            begun.append(batches.queued_rows)
            run()

        monkeypatch.setattr(batches, "_run", counted)
        jobs = [job(row_of(number)) for number in range(3)]
        for each in jobs:
            batches.submit(each)
        # Timers of the loop go off in their order.
        asyncio.get_running_loop().call_later(0.01, (over := asyncio.Event()).set)
        await over.wait()
        await until(lambda: all(map(done, jobs)))
    assert begun == [3]


async def test_short_requests_of_the_turn_join_the_next_run_while_a_list_waits() -> None:
    """Who was answered by a run may ask again before the next one begins."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8) as batches:

        async def twice() -> None:
            await score(batches, job(row_of(1)))
            await score(batches, job(row_of(2)))

        engine.gate.clear()
        task = asyncio.create_task(twice())
        await until(engine.entered.is_set)
        batches.submit(listed := job([[5, 0]] * 24))
        batches.submit(short := job(row_of(3)))
        engine.gate.set()
        await task
        await until(lambda: done(listed) and done(short))
    assert engine.rows[:2] == [1, 2]


@pytest.mark.parametrize(
    ("rows", "inline", "waits"), [(9, -1.0, False), (8, -1.0, True), (9, INLINE, True)]
)
async def test_a_long_list_is_with_the_engine_at_once(
    rows: int, inline: float, waits: bool
) -> None:
    """It fills a run by itself; others wait for the end of the turn, as does what the loop runs."""
    async with batcher(FakeEngine(), inline_seconds=inline, max_rows=32) as batches:
        batches.company = 2
        batches.submit(asked := job([[1, 0]] * rows))
        assert batches.queued_rows == (rows if waits else 0)
        batches.submit(after := job(row_of(1)))
        await until(lambda: done(asked) and done(after))
        assert batches.company == (1 if rows == 9 else 2)


async def test_nothing_is_handed_ahead_before_runs_have_shown_their_time() -> None:
    """Nor of what is not there: a third of a run is enough, a quarter is not."""
    for runs, ready, ahead in ((0, 24, None), (LEARNING_RUNS, 24, 12), (LEARNING_RUNS, 16, 4),
                               (LEARNING_RUNS, 15, None)):  # fmt: skip
        engine = FakeEngine()
        async with batcher(engine, runs=runs, max_rows=12) as batches:
            engine.gate.clear()
            batches.submit(asked := growing(30, ready=12))
            await until(engine.entered.is_set)
            asked.ready = ready
            batches.submit(asked)
            expected = None if ahead is None else (asked, 12, 12 + ahead)
            assert batches._ahead == expected
            asked.ready = 30
            batches.submit(asked)
            engine.gate.set()
            await until(lambda it=asked: done(it))  # type: ignore[misc]


async def test_each_run_of_a_lone_list_is_handed_ahead_of_the_one_before() -> None:
    """Not the second alone; it counts for deadlines and for what is observed as any other."""
    may_end, told = threading.Semaphore(0), []

    def held(batch: Batch, scores: Scores) -> Scores:
        may_end.acquire()
        return scores

    def observe(batch: Batch, scores: Scores, seconds: float, closed: Closed) -> None:
        told.append((len(batch.candidate), closed))

    async with batcher(FakeEngine(held), max_rows=8, observe=observe) as batches:
        batches.cost.base, batches.cost.per_row = 0.0, 10.0
        batches.cost.observe = lambda rows, seconds: None  # type: ignore[method-assign]
        batches.submit(listed := job([[place, 0] for place in range(20)], seconds=900))
        for first, ahead, wait in ((0, (8, 16), 231), (8, (16, 20), 143)):
            await until(lambda rows=first: listed.done == rows)  # type: ignore[misc]
            assert batches._ahead == (listed, *ahead)
            now = asyncio.get_running_loop().time()
            batches.admit(1, now + wait + 1)
            with pytest.raises(Overloaded, match="deadline"):
                batches.admit(1, now + wait - 40)
            may_end.release()
        may_end.release()
        await until(lambda: done(listed))
    assert told == [(8, "full"), (8, "full"), (4, "drained")]


async def test_a_list_that_is_cancelled_in_its_last_run_leaves_nothing_to_drop() -> None:
    """All its rows are in the engine: none of them waits."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        engine.gate.clear()
        batches.submit(running := job([[1, 0]] * 3))
        await until(engine.entered.is_set)
        batches.cancel(running)
        assert (batches.queued_rows, batches.abandoned) == (0, 0)
        engine.gate.set()
        await until(lambda: batches.idle)
        assert not done(running)


async def test_a_run_begins_beside_one_that_goes_on() -> None:
    """As soon as one of two has ended, whichever it is."""
    engine, may_end = FakeEngine(), [threading.Event() for _ in range(3)]

    def held(batch: Batch, scores: Scores) -> Scores:
        may_end[batch.candidate[0, 0]].wait()
        return scores

    engine.spoil = held
    async with batcher(engine, in_flight=2) as batches:
        jobs = [job(row_of(number)) for number in range(3)]
        for each, runs in zip(jobs, (1, 2, 2), strict=True):
            batches.submit(each)
            await until(lambda most=runs: len(engine.batches) == most)  # type: ignore[misc]
        may_end[1].set()
        await until(lambda: len(engine.batches) == 3)
        assert [done(each) for each in jobs] == [False, True, False]
        for each in may_end:
            each.set()
        await until(lambda: all(map(done, jobs)))


async def test_of_what_is_answered_in_part_the_first_rows_must_be_in_reach() -> None:
    """The others may miss the deadline, however many there are."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=10) as batches:
        batches.cost.base, batches.cost.per_row = 0.0, 1.0
        async with Busy(engine, batches) as running:
            now = asyncio.get_running_loop().time()
            batches.admit(1_000, now + 13, partial=True)
            with pytest.raises(Overloaded, match="deadline"):
                batches.admit(1_000, now + 13)
            with pytest.raises(Overloaded, match="deadline"):
                batches.admit(1_000, now + 10, partial=True)
            batches.admit(2, now + 4, partial=True)
        await running


async def test_runs_in_flight_share_the_wait() -> None:
    """Two at once take half as long for what is queued."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=4, in_flight=2) as batches:
        batches.cost.base, batches.cost.per_row = 0.0, 1.0
        async with Busy(engine, batches) as running:
            now = asyncio.get_running_loop().time()
            batches.admit(8, now + 6)
            with pytest.raises(Overloaded, match="deadline"):
                batches.admit(8, now + 4)
        await running


async def test_each_run_teaches_what_the_next_one_takes() -> None:
    """One that failed does not, and is told of in another way."""
    told: list[tuple[float, Closed]] = []
    failures: list[BaseException] = []

    def slowly(batch: Batch, scores: Scores) -> Scores:
        time.sleep(0.02)
        if batch.candidate[0, 0] == 666:
            raise EngineFailed("no")
        return scores

    def observe(batch: Batch, scores: Scores, seconds: float, closed: Closed) -> None:
        told.append((seconds, closed))

    engine = FakeEngine(slowly)
    async with batcher(engine, runs=0, observe=observe, failed=failures.append) as batches:
        assert await outcome(asyncio.create_task(score(batches, job(row_of(666))))) is EngineFailed
        assert (batches.cost.runs, told, len(failures)) == (0, [], 1)
        await score(batches, job(row_of(1)))
        ((seconds, closed),) = told
        assert (batches.cost.runs, closed, len(failures)) == (1, "drained", 1)
        assert seconds >= 0.02
        assert batches.cost.seconds(1) == pytest.approx(seconds, rel=1e-6)


async def test_an_idle_batcher_wakes_nobody() -> None:
    """It looks at deadlines while anybody waits, and no longer."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        async with Busy(engine, batches) as running:
            late = asyncio.create_task(score(batches, job(row_of(1), seconds=2 * SWEEP_SECONDS)))
            with pytest.raises(Exception, match="deadline passed"):
                await late
            assert batches._sweeper is not None, "one is in the engine"
        await running
        await until(lambda: batches._sweeper is None)
        assert await outcome(
            asyncio.create_task(score(batches, job(row_of(2), seconds=LATER)))
        ) == [2.0]


async def test_a_batcher_that_was_left_wakes_nobody() -> None:
    """Though its run goes on: that one may never end, and would keep the engine."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        engine.gate.clear()
        batches.submit(running := job(row_of(1)))
        await until(engine.entered.is_set)
        sweeper = batches._sweeper
        assert sweeper is not None
    assert sweeper.cancelled()
    engine.gate.set()
    assert isinstance(running.caller, Waiting)
    assert await outcome(running.caller.outcome) is NotReady
