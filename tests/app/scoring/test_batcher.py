"""Rows of concurrent callers share engine runs, and every caller gets an answer of its own."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from app.errors import DeadlinePassed, EngineFailed, NotReady, Overloaded, ServiceError
from app.features.graph_inputs import Batch, Scores
from app.scoring.batcher import LEARNING_RUNS, MicroBatcher
from app.scoring.engine_runs import EngineRuns
from app.scoring.job import Closed, Job
from app.scoring.job_queue import SHARED_SECONDS
from tests.support.fakes import FakeEngine
from tests.support.turns import until

pytestmark = pytest.mark.anyio
LATER = 60.0
WIDTH = 2
THREAD, INLINE = -1.0, 3600.0
both_ways = pytest.mark.parametrize("way", [THREAD, INLINE], ids=["thread", "inline"])


class Waiting:
    """An ``app.scoring.job.Caller`` whose outcome can be awaited."""

    def __init__(self, seconds: float, departed: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        self.deadline = loop.time() + seconds
        self._departed = departed
        self.outcome: asyncio.Future[Scores] = loop.create_future()
        self.trace = None
        self.of_page = False
        self.encoded = self.begun = self.ended = 0.0

    def departed(self) -> bool:
        return self.outcome.cancelled() or self._departed()

    def scored(self, scores: Scores) -> None:
        if not self.outcome.cancelled():
            self.outcome.set_result(scores)

    def scored_alone(self, logit: float, score: float) -> None:
        self.scored(Scores(np.array([logit], np.float32), np.array([score], np.float32)))

    def failed(self, error: Exception) -> None:
        if not self.outcome.cancelled():
            self.outcome.set_exception(error)


def job(
    rows: Sequence[Sequence[int]],
    context: int = 0,
    seconds: float = LATER,
    departed: Callable[[], bool] = lambda: False,
) -> Job:
    """Candidate rows of two indices for one context of one index."""
    packed = np.array(rows, np.int32).reshape(-1, WIDTH).tobytes()
    return Job(Waiting(seconds, departed), [np.int32(context).tobytes()], packed, len(rows))


async def score(batches: MicroBatcher, job: Job) -> Scores:
    """Submit a job and wait for its outcome."""
    batches.submit(job)
    assert isinstance(job.caller, Waiting)
    return await job.caller.outcome


def row_of(value: int) -> list[list[int]]:
    """One row whose logit is ``value``."""
    return [[value, 0]]


def batcher(engine: FakeEngine, runs: int = LEARNING_RUNS, **options: Any) -> MicroBatcher:
    """A batcher that runs the engine on its thread, so that a test may hold it there.

    Its cost model has seen ``runs`` runs.
    """
    options = {"inline_seconds": THREAD} | options
    batches = MicroBatcher(engine, context_width=1, candidate_width=WIDTH, **options)
    batches.cost.runs = runs
    return batches


async def outcome(scores: asyncio.Future[Scores] | asyncio.Task[Scores]) -> object:
    """The logits, or the type of the error."""
    try:
        return (await scores).logit.tolist()
    except ServiceError as error:
        return type(error)


class Busy:
    """Keeps the engine in a run of one row while the body runs."""

    def __init__(self, engine: FakeEngine, batches: MicroBatcher, seconds: float = LATER) -> None:
        self.engine, self.batches, self.seconds = engine, batches, seconds

    async def __aenter__(self) -> asyncio.Task[Scores]:
        self.engine.gate.clear()
        self.engine.entered.clear()
        task = asyncio.create_task(score(self.batches, job(row_of(1), seconds=self.seconds)))
        await until(self.engine.entered.is_set)
        return task

    async def __aexit__(self, *_: object) -> None:
        self.engine.gate.set()


async def test_concurrent_callers_share_one_run() -> None:
    """Rows that arrive together are scored together; each caller gets its own back."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        first, second = await asyncio.gather(
            score(batches, job([[1, 2], [3, 4]], context=10)),
            score(batches, job([[5, 6]], context=20)),
        )
    assert first.logit.tolist() == [13.0, 17.0]
    assert second.logit.tolist() == [31.0]
    assert second.score.tolist() == [pytest.approx(1.0)]
    assert engine.rows == [3]


@both_ways
async def test_every_row_gets_its_own_score(way: float) -> None:
    """64 distinct rows in shuffled company have the scores that they have alone, every time."""
    engine = FakeEngine()
    rows = [([[a, b]], context) for a in (1, 8) for b in range(4) for context in range(8)]
    shuffled = random.Random(1)
    async with batcher(engine, inline_seconds=way, max_rows=20) as batches:
        alone = [(await score(batches, job(row, c))).logit.tolist() for row, c in rows]
        for _ in range(100):
            order = shuffled.sample(range(64), 64)
            together = await asyncio.gather(*(score(batches, job(*rows[i])) for i in order))
            assert [scores.logit.tolist() for scores in together] == [alone[i] for i in order]
    assert max(engine.rows) == 20


async def test_rows_gather_while_the_engine_is_busy() -> None:
    """Jobs that arrive during a run are the next run, without any fixed wait."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        async with Busy(engine, batches) as first:
            waiting = [asyncio.create_task(score(batches, job(row_of(i)))) for i in range(5)]
            await until(lambda: batches.queued_rows == 5)
            assert not first.done()
        assert [await outcome(task) for task in waiting] == [[float(i)] for i in range(5)]
    assert engine.rows == [1, 5]
    assert batches.queued_rows == 0


async def test_linger_gathers_later_arrivals() -> None:
    """With a linger, a row that comes a few turns of the loop later joins the run."""
    engine = FakeEngine()
    async with batcher(engine, linger=0.5) as batches:
        first = asyncio.create_task(score(batches, job(row_of(1))))
        await until(lambda: batches.queued_rows == 1)
        for _ in range(5):
            await asyncio.sleep(0)
        await asyncio.gather(first, score(batches, job(row_of(2))))
    assert engine.rows == [2]


@both_ways
async def test_no_run_is_larger_than_the_limit(way: float) -> None:
    """Long lists are cut to the limit, beside short ones, and all answers are complete."""
    engine = FakeEngine()
    async with batcher(engine, inline_seconds=way, max_rows=64) as batches:
        lists = [[[i, k] for k in range(100)] for i in range(40)]
        jobs = [job(rows, context=1) for rows in lists] + [job(row_of(i)) for i in range(40)]
        answers = await asyncio.gather(*(score(batches, each) for each in jobs))
    for i in range(40):
        assert answers[i].logit.tolist() == [1.0 + i + k for k in range(100)]
        assert answers[40 + i].logit.tolist() == [float(i)]
    assert max(engine.rows) <= 64
    assert sum(engine.rows) == 40 * 101
    assert batches.queued_rows == 0


@both_ways
async def test_one_list_longer_than_the_queue_is_scored(way: float) -> None:
    """A list is cut into runs in its own order, even if it alone is over the queue's limit."""
    engine = FakeEngine()
    async with batcher(engine, inline_seconds=way, max_rows=8, max_queue_rows=10) as batches:
        scores = await score(batches, job([[k, 0] for k in range(21)]))
    assert scores.logit.tolist() == list(map(float, range(21)))
    assert engine.rows == [8, 8, 5]


async def test_short_requests_pass_long_lists() -> None:
    """A row that comes after long lists waits for one run of theirs at most; they take turns."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8) as batches:
        async with Busy(engine, batches):
            lists = [asyncio.create_task(score(batches, job([[i, 0]] * 40))) for i in (1, 2)]
            await until(lambda: batches.queued_rows == 80)
            short = asyncio.create_task(score(batches, job(row_of(99))))
            await until(lambda: batches.queued_rows == 81)
        await asyncio.gather(short, *lists)
    runs = [set(batch.candidate[:, 0].tolist()) for batch in engine.batches[1:]]
    assert 99 in runs[0] | runs[1]
    first, second, *_ = [run & {1, 2} for run in runs if run & {1, 2}]
    assert first != second


async def test_long_lists_pass_short_requests() -> None:
    """However many short requests wait, every second run is a long list's."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8) as batches:
        async with Busy(engine, batches):
            short = [asyncio.create_task(score(batches, job(row_of(0)))) for _ in range(100)]
            await until(lambda: batches.queued_rows == 100)
            long = asyncio.create_task(score(batches, job([[5, 0]] * 12)))
            await until(lambda: batches.queued_rows == 112)
        await asyncio.gather(long, *short)
    held = [int((batch.candidate[:, 0] == 5).sum()) for batch in engine.batches]
    runs = [number for number, rows in enumerate(held) if rows]
    assert sum(held) == 12
    assert runs == list(range(runs[0], runs[0] + 2 * len(runs), 2))


async def test_a_slow_engine_still_takes_long_lists() -> None:
    """Where one row takes longer than a shared run may, long lists go on row by row."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=8) as batches:
        batches.cost.base, batches.cost.per_row = 0.01, 0.01
        async with Busy(engine, batches):
            short = asyncio.create_task(score(batches, job(row_of(0))))
            long = asyncio.create_task(score(batches, job([[5, 0]] * 12)))
            await until(lambda: batches.queued_rows == 13)
        await asyncio.gather(long, short)
    assert sum(engine.rows) == 14


async def test_short_requests_keep_their_turn() -> None:
    """A short request that a run cuts is finished by the next one, before later arrivals."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=16) as batches:
        async with Busy(engine, batches):
            tasks = [asyncio.create_task(score(batches, job([[i, 0]] * 3))) for i in range(12)]
            await until(lambda: batches.queued_rows == 36)
        await asyncio.gather(*tasks)
    order = np.concatenate([batch.candidate[:, 0] for batch in engine.batches[1:]]).tolist()
    assert order == sorted(order)


async def test_equal_contexts_go_to_the_engine_once() -> None:
    """Rows of several callers that share a context share its row in the batch."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        contexts = [np.int32(value).tobytes() for value in (7, 9)]
        candidates = np.arange(6, dtype=np.int32).tobytes()
        mixed = Job(Waiting(LATER, lambda: False), contexts, candidates, 3, [1, 0, 1])
        answers = await asyncio.gather(
            score(batches, job(row_of(1), context=9)),
            score(batches, mixed),
            score(batches, job(row_of(2), context=7)),
        )
    (batch,) = engine.batches
    assert batch.context.ravel().tolist() == [9, 7]
    assert batch.row_context.tolist() == [0, 0, 1, 0, 1]
    assert [a.logit.tolist() for a in answers] == [[10.0], [10.0, 12.0, 18.0], [9.0]]


@both_ways
async def test_cut_lists_keep_their_contexts(way: float) -> None:
    """A list with a context for each row may be cut anywhere."""
    engine = FakeEngine()
    contexts = [np.int32(value).tobytes() for value in (100, 200, 300)]
    row_context = [i % 3 for i in range(20)]
    candidates = np.array([[i, 0] for i in range(20)], np.int32).tobytes()
    async with batcher(engine, inline_seconds=way, max_rows=6) as batches:
        waiting = Waiting(LATER, lambda: False)
        scores = await score(batches, Job(waiting, contexts, candidates, 20, row_context))
    assert scores.logit.tolist() == [100.0 * (1 + i % 3) + i for i in range(20)]


def growing(rows: int, ready: int) -> Job:
    """A job of rows 1, 2, 3, ..., of which only the first are ready."""
    whole = job([[number, 0] for number in range(1, rows + 1)])
    whole.candidates, whole.ready = bytearray(whole.candidates), ready
    return whole


@both_ways
@pytest.mark.parametrize("max_rows", [2, 8, 100], ids=["cut", "large", "small"])
async def test_a_list_is_scored_while_it_grows(way: float, max_rows: int) -> None:
    """Rows that are ready go to the engine; the list is answered when all of them were there."""
    engine = FakeEngine()
    async with batcher(engine, inline_seconds=way, max_rows=max_rows) as batches:
        task = asyncio.create_task(score(batches, part := growing(9, ready=4)))
        await until(lambda: part.done == 4)
        other = asyncio.create_task(score(batches, job(row_of(100))))
        assert await outcome(other) == [100.0], "others are not held up"
        assert not task.done()
        assert part.caller.encoded == 0, "not all of its rows are ready"
        assert batches.queued_rows == 5
        part.ready = 7
        batches.submit(part)
        part.ready = 9
        batches.submit(part)
        assert await outcome(task) == [float(number) for number in range(1, 10)]
        batches.submit(part)
        assert batches.idle, "it has no rows left to be queued"
    assert sum(engine.rows) == 10
    assert batches.queued_rows == 0


async def test_a_list_that_grows_leaves_the_loop_free() -> None:
    """However quick its runs are: the loop has the rest of it to encode."""
    engine, names = FakeEngine(), []

    def note(batch: Batch, scores: Scores) -> Scores:
        names.append(threading.current_thread().name)
        return scores

    engine.spoil = note
    async with batcher(engine, inline_seconds=INLINE, max_rows=8) as batches:
        task = asyncio.create_task(score(batches, part := growing(9, ready=4)))
        await until(lambda: part.done == 4)
        part.ready = 9
        batches.submit(part)
        await task
    assert names[0].startswith("engine")
    assert engine.rows == [4, 5]


async def test_a_list_given_up_leaves_the_queue() -> None:
    """A list that is cancelled while it grows takes no room and is never scored."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=2) as batches:
        async with Busy(engine, batches):
            waiting, parked = growing(9, ready=4), growing(9, ready=0)
            for each in (waiting, parked):
                batches.submit(each)
            assert batches.queued_rows == 18
            batches.submit(other := job(row_of(7)))
            for each in (waiting, parked):
                batches.cancel(each)
        await until(lambda: other.answered)
        assert (batches.queued_rows, batches.abandoned) == (0, 2)
    assert engine.rows == [1, 1]


async def test_a_list_may_be_cancelled_between_its_parts() -> None:
    """One that stands in no queue gives its room back at once, one never submitted had none."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        batches.submit(part := growing(9, ready=4))
        await until(lambda: part.done == 4)
        assert batches.queued_rows == 5
        batches.cancel(part)
        assert (batches.queued_rows, batches.abandoned) == (0, 1)
        batches.cancel(growing(9, ready=0))
        assert (batches.queued_rows, batches.abandoned) == (0, 1)
        assert not part.caller.outcome.done(), "its caller has another answer"  # type: ignore[attr-defined]


@both_ways
async def test_no_rows_need_no_engine(way: float) -> None:
    """An empty list has no scores, at once."""
    engine = FakeEngine()
    async with batcher(engine, inline_seconds=way) as batches:
        scores = await score(batches, job([]))
    assert len(scores.logit) == len(scores.score) == 0
    assert engine.batches == []


async def test_no_rows_wait_for_nobody() -> None:
    """Nor for those that come with them."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        async with Busy(engine, batches):
            empty, one = together(batches, job([]), job(row_of(2)))
            assert empty.done()
        assert [await outcome(empty), await outcome(one)] == [[], [2.0]]
    assert engine.rows == [1, 1]


@both_ways
async def test_engine_failure_answers_every_waiter(way: float) -> None:
    """All callers of a failed run get EngineFailed, without its inner words; the next run works."""

    def explode(batch: Batch, scores: Scores) -> Scores:
        raise RuntimeError("secret /path")

    engine = FakeEngine(explode)
    async with batcher(engine, inline_seconds=way) as batches:
        results = await asyncio.gather(
            *(score(batches, job(row_of(i))) for i in range(10)), return_exceptions=True
        )
        assert {type(error) for error in results} == {EngineFailed}
        assert "secret" not in str(results[0])
        engine.spoil = None
        assert (await score(batches, job(row_of(4)))).logit.tolist() == [4.0]


@both_ways
async def test_failure_of_one_part_fails_its_list_only(way: float) -> None:
    """A long list with one failed run is failed whole; other callers' runs are not."""
    engine = FakeEngine()

    def fail_second(batch: Batch, scores: Scores) -> Scores:
        if len(engine.batches) == 2:
            raise EngineFailed("no")
        return scores

    engine.spoil = fail_second
    async with batcher(engine, inline_seconds=way, max_rows=8) as batches:
        long = asyncio.create_task(score(batches, job([[1, 0]] * 40)))
        assert await outcome(long) is EngineFailed
        assert await outcome(asyncio.create_task(score(batches, job(row_of(3))))) == [3.0]
    assert engine.rows == [8, 8, 1], "the rest of the failed list is not scored"
    assert batches.queued_rows == 0


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("part", ["logit", "score"])
@both_ways
async def test_wrong_number_of_scores_is_an_error(way: float, change: int, part: str) -> None:
    """One score too few or too many fails the run; nobody gets a neighbour's."""

    def resize(batch: Batch, scores: Scores) -> Scores:
        wrong = np.resize(getattr(scores, part), len(batch.candidate) + change)
        return scores._replace(**{part: wrong})

    engine = FakeEngine(resize)
    async with batcher(engine, inline_seconds=way) as batches:
        results = await asyncio.gather(
            *(score(batches, job(row_of(i))) for i in range(3)), return_exceptions=True
        )
        assert {type(error) for error in results} == {EngineFailed}
        engine.spoil = None
        assert (await score(batches, job(row_of(4)))).logit.tolist() == [4.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@both_ways
async def test_score_that_is_no_number_fails_its_caller_alone(way: float, value: float) -> None:
    """A logit that is not finite is EngineFailed for its list; neighbours have their scores."""

    def spoil(batch: Batch, scores: Scores) -> Scores:
        scores.logit[batch.candidate[:, 0] == 666] = value
        return scores

    async with batcher(FakeEngine(spoil), inline_seconds=way, max_rows=4) as batches:
        rows = [row_of(1), [[2, 0], [666, 0], [3, 0]], row_of(4)]
        tasks = [asyncio.create_task(score(batches, job(r))) for r in rows]
        assert [await outcome(task) for task in tasks] == [[1.0], EngineFailed, [4.0]]


async def test_neighbours_in_its_run_have_their_scores() -> None:
    """One row and several beside a score that is no number, all of one run."""

    def spoil(batch: Batch, scores: Scores) -> Scores:
        scores.logit[batch.candidate[:, 0] == 666] = np.nan
        return scores

    engine = FakeEngine(spoil)
    async with batcher(engine) as batches:
        async with Busy(engine, batches):
            rows = [row_of(2), row_of(666), [[3, 0], [4, 0]]]
            tasks = [asyncio.create_task(score(batches, job(r))) for r in rows]
            await until(lambda: batches.queued_rows == 4)
        assert [await outcome(task) for task in tasks] == [[2.0], EngineFailed, [3.0, 4.0]]
    assert engine.rows == [1, 4]


def together(batches: MicroBatcher, *jobs: Job) -> list[asyncio.Future[Scores]]:
    """Submit jobs at once, and return their outcomes."""
    batches.submit_together(jobs)
    found = []
    for each in jobs:
        assert isinstance(each.caller, Waiting)
        found.append(each.caller.outcome)
    return found


async def test_callers_that_come_together_share_a_run() -> None:
    """Each has its own scores, and knows when its rows had come."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        batches.submit_together([])
        jobs = [job(row_of(2)), job([[3, 0], [4, 0]], context=5), job(row_of(6))]
        before = time.perf_counter()
        found = together(batches, *jobs)
        assert batches.queued_rows == 4
        assert [await outcome(each) for each in found] == [[2.0], [8.0, 9.0], [6.0]]
        for each in jobs:
            assert isinstance(each.caller, Waiting)
            assert before <= each.caller.encoded <= each.caller.begun
        assert batches.queued_rows == 0
    assert engine.rows == [4]


async def test_those_that_come_together_are_refused_one_by_one() -> None:
    """The queue holds its rows and no more: who finds room is scored; without rows none is needed.
    A deadline out of reach is that of its caller alone."""
    engine = FakeEngine()
    async with batcher(engine, max_queue_rows=5) as batches:
        async with Busy(engine, batches):
            sizes = ([[1, 0]] * 2, [[2, 0]] * 4, [], [[3, 0]] * 3)
            found = together(batches, *(job(rows) for rows in sizes))
            assert batches.queued_rows == 5
            assert [await outcome(found[place]) for place in (1, 2)] == [Overloaded, []]
        assert [await outcome(found[place]) for place in (0, 3)] == [[1.0] * 2, [3.0] * 3]
        batches.cost.base, batches.cost.per_row = 0.0, 1.0
        async with Busy(engine, batches):
            found = together(batches, job(row_of(1)), job(row_of(2), seconds=0.5))
            assert await outcome(found[1]) is Overloaded
        assert await outcome(found[0]) == [1.0]
    assert [await outcome(each) for each in together(batches, job(row_of(1)))] == [NotReady]


@pytest.mark.parametrize("rows", [1, 9], ids=["short", "long"])
async def test_it_is_idle_without_rows_alone(rows: int) -> None:
    """Rows in the queue, or in the engine: its bundle is still in use."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=16) as batches:
        assert batches.idle
        (waiting,) = together(batches, job([[1, 0]] * rows))
        assert not batches.idle
        await waiting
        async with Busy(engine, batches):
            assert batches.queued_rows == 0
            assert not batches.idle
        await until(lambda: batches.idle)


async def test_departed_callers_never_reach_the_engine() -> None:
    """Rows of a caller that has gone are dropped: told by the caller, or cancelled."""
    engine = FakeEngine()
    gone: list[bool] = []
    async with batcher(engine) as batches:
        async with Busy(engine, batches):
            told = asyncio.create_task(score(batches, job(row_of(5), departed=lambda: bool(gone))))
            cancelled = asyncio.create_task(score(batches, job(row_of(6))))
            stays = asyncio.create_task(score(batches, job(row_of(7))))
            await until(lambda: batches.queued_rows == 3)
            gone.append(True)
            cancelled.cancel()
        assert await outcome(stays) == [7.0]
        assert issubclass(await outcome(told), ServiceError)  # type: ignore[arg-type]
    assert engine.batches[1].candidate.tolist() == [[7, 0]]
    assert batches.abandoned == 2
    assert batches.queued_rows == 0


async def test_caller_may_leave_during_its_run() -> None:
    """Cancelling a request in the engine harms nobody, and the rest of its list is dropped."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=4) as batches:
        engine.gate.clear()
        leaving = asyncio.create_task(score(batches, job([[1, 0]] * 12)))
        await until(engine.entered.is_set)
        stays = asyncio.create_task(score(batches, job(row_of(7))))
        leaving.cancel()
        engine.gate.set()
        assert await outcome(stays) == [7.0]
    assert engine.rows == [4, 1]
    assert batches.queued_rows == 0


async def test_expired_rows_never_reach_the_engine() -> None:
    """A deadline that passes in the queue is DeadlinePassed, and costs no run."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        async with Busy(engine, batches):
            asked = job(row_of(5))
            late = asyncio.create_task(score(batches, asked))
            await until(lambda: batches.queued_rows == 1)
            asked.caller.deadline = 0.0
            assert await outcome(late) is DeadlinePassed
        assert await outcome(asyncio.create_task(score(batches, job(row_of(6))))) == [6.0]
    assert [5, 0] not in np.concatenate([b.candidate for b in engine.batches]).tolist()
    assert batches.queued_rows == 0


async def test_deadline_passes_while_the_engine_hangs() -> None:
    """A caller whose own run hangs is answered when its time is up, not when the run ends."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        async with Busy(engine, batches) as task:
            for running, _, _ in batches._running:
                running.caller.deadline = 0.0
            assert await outcome(task) is DeadlinePassed
            assert not engine.gate.is_set()
        assert await outcome(asyncio.create_task(score(batches, job(row_of(6))))) == [6.0]


async def test_full_queue_refuses() -> None:
    """More rows than the queue may hold are Overloaded, with a time to come back."""
    engine = FakeEngine()
    async with batcher(engine, max_queue_rows=10) as batches:
        async with Busy(engine, batches):
            batches.cost.base, batches.cost.per_row = 0.0, 1.0
            waiting = asyncio.create_task(score(batches, job([[1, 0]] * 8)))
            await until(lambda: batches.queued_rows == 8)
            with pytest.raises(Overloaded, match="full") as caught:
                await score(batches, job([[2, 0]] * 3))
            assert caught.value.headers["retry-after"] == "12"
            assert caught.value.reason == "queue_full"
            with pytest.raises(Overloaded, match="full"):
                batches.admit(3, asyncio.get_running_loop().time() + LATER)
            assert batches.queued_rows == 8, "what is refused is not queued"
            fits = asyncio.create_task(score(batches, job([[2, 0]] * 2)))
            await until(lambda: batches.queued_rows == 10)
        assert len((await waiting).logit) + len((await fits).logit) == 10


async def test_deadline_out_of_reach_refuses() -> None:
    """A job predicted to end after its deadline is refused at once, with the time to wait."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=10) as batches:
        batches.cost.base, batches.cost.per_row = 0.0, 0.1
        async with Busy(engine, batches):
            waiting = asyncio.create_task(score(batches, job([[1, 0]] * 32)))
            await until(lambda: batches.queued_rows == 32)
            with pytest.raises(Overloaded, match="deadline") as caught:
                await score(batches, job([[2, 0]] * 10, seconds=3.5))
            assert caught.value.headers["retry-after"] == "5"
            assert caught.value.reason == "deadline_out_of_reach"
            batches.admit(10, asyncio.get_running_loop().time() + 5)
        await waiting


async def test_the_run_in_the_engine_counts_for_the_deadline() -> None:
    """Rows wait for the run before them too, even where none are queued yet."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=10) as batches:
        batches.cost.base, batches.cost.per_row = 0.0, 1.0
        engine.gate.clear()
        begun = asyncio.get_running_loop().time()
        running = asyncio.create_task(score(batches, job([[1, 0]] * 10)))
        await until(engine.entered.is_set)
        assert batches._run_ends >= begun + 10
        now = asyncio.get_running_loop().time()
        batches._run_ends = now + 10  # As if it had begun now.
        with pytest.raises(Overloaded, match="deadline") as caught:
            batches.admit(1, now + 9.5)
        assert caught.value.headers["retry-after"] == "12"
        batches.admit(1, now + 12.5)
        engine.gate.set()
        await running
        batches.admit(1, now + 0.1)


async def test_leaving_answers_every_waiter() -> None:
    """At the end, callers in the queue and in the engine get NotReady, as do later ones."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        engine.gate.clear()
        running = asyncio.create_task(score(batches, job(row_of(1))))
        await until(engine.entered.is_set)
        queued = asyncio.create_task(score(batches, job(row_of(2))))
        await until(lambda: batches.queued_rows == 1)
    try:
        assert [await outcome(running), await outcome(queued)] == [NotReady, NotReady]
        with pytest.raises(NotReady):
            await score(batches, job(row_of(3)))
    finally:
        engine.gate.set()
    assert engine.rows == [1]


async def test_a_hung_run_answers_every_caller() -> None:
    """Callers in the engine, in the queue and later ones get an error before their deadline."""
    engine, told = FakeEngine(), []
    async with batcher(engine, hang_seconds=0.1, hung=lambda: told.append("hung")) as batches:
        engine.gate.clear()
        running = asyncio.create_task(score(batches, job(row_of(1))))
        await until(engine.entered.is_set)
        queued = asyncio.create_task(score(batches, job([[2, 0]] * 300)))
        assert [await outcome(running), await outcome(queued)] == [EngineFailed, EngineFailed]
        assert told == ["hung"]
        with pytest.raises(EngineFailed, match="hangs"):
            await score(batches, job(row_of(3)))
        engine.gate.set()
        await asyncio.sleep(0.01)
    assert engine.rows == [1], "no run begins any more"


async def test_a_run_that_hangs_on_the_loop_is_told_elsewhere() -> None:
    """The loop cannot do anything then: another thread is told."""
    engine, threads = FakeEngine(), []

    def stuck() -> None:
        threads.append(threading.current_thread())
        engine.gate.set()

    async with batcher(engine, inline_seconds=INLINE, hang_seconds=0.1, stuck=stuck) as batches:
        engine.gate.clear()
        assert (await score(batches, job(row_of(1)))).logit.tolist() == [1.0]
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


@both_ways
async def test_a_system_exit_in_the_engine_is_a_failed_run(way: float) -> None:
    """It fails its callers and ends neither the engine's thread nor the event loop."""

    def leave(batch: Batch, scores: Scores) -> Scores:
        raise SystemExit(3)

    engine = FakeEngine(leave)
    async with batcher(engine, inline_seconds=way) as batches:
        for _ in range(2):
            with pytest.raises(EngineFailed, match="SystemExit"):
                await score(batches, job(row_of(1)))
            await asyncio.sleep(0)
        engine.spoil = None
        assert (await score(batches, job(row_of(4)))).logit.tolist() == [4.0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_is_gone_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its callers get an error soon, and the next ones their scores, by another thread."""
    engine, failures = FakeEngine(), []
    async with batcher(engine, failed=failures.append) as batches:
        with monkeypatch.context() as patch:
            # As if the interpreter had ended it: SystemExit ends a thread without a word.
            patch.setattr(EngineRuns, "run", lambda *_, **__: sys.exit())
            with pytest.raises(EngineFailed, match="thread has ended"):
                await score(batches, job(row_of(1)))
        assert (await score(batches, job(row_of(4)))).logit.tolist() == [4.0]
    assert [type(error) for error in failures] == [EngineFailed]


@pytest.mark.parametrize("in_flight", [1, 2])
async def test_nothing_keeps_the_engine_of_a_batcher_that_was_left(in_flight: int) -> None:
    """Objects in use are frozen: references alone must free a replaced engine."""
    engine = FakeEngine()
    gc.disable()
    try:
        async with batcher(engine, in_flight=in_flight) as batches:
            await score(batches, job(row_of(1)))
        kept = weakref.ref(engine)
        del engine, batches
        await until(lambda: kept() is None)
    finally:
        gc.enable()


async def test_a_lone_quick_request_runs_at_once() -> None:
    """While callers come one at a time, a quick run needs neither a thread nor a turn."""
    engine, threads = FakeEngine(), set()

    def note(batch: Batch, scores: Scores) -> Scores:
        threads.add(threading.current_thread())
        return scores

    engine.spoil = note
    async with batcher(engine, inline_seconds=INLINE) as batches:
        for i in range(3):
            coroutine = score(batches, job(row_of(i)))
            with pytest.raises(StopIteration) as caught:
                coroutine.send(None)
            assert caught.value.value.logit.tolist() == [float(i)]
            await asyncio.sleep(0)
    assert threads == {threading.main_thread()}


async def test_an_unknown_engine_does_not_run_in_the_loop() -> None:
    """Before a few runs have shown how long they take, all are on the engine's thread."""
    engine, names = FakeEngine(), []

    def note(batch: Batch, scores: Scores) -> Scores:
        names.append(threading.current_thread().name)
        return scores

    engine.spoil = note
    async with batcher(engine, runs=0, inline_seconds=INLINE) as batches:
        for i in range(LEARNING_RUNS + 1):
            await score(batches, job(row_of(i)))
    assert [name.startswith("engine") for name in names] == [True] * LEARNING_RUNS + [False]


async def test_slow_runs_leave_the_loop_free() -> None:
    """A run that is predicted to be slow is on the engine's thread, a quick one is not."""
    engine, names = FakeEngine(), []

    def note(batch: Batch, scores: Scores) -> Scores:
        names.append(threading.current_thread().name)
        return scores

    engine.spoil = note
    async with batcher(engine, inline_seconds=0.05) as batches:
        for per_row in (1.0, 0.0):
            batches.cost.base, batches.cost.per_row = 0.0, per_row
            await score(batches, job(row_of(1)))
            await asyncio.sleep(0)
    assert [name.startswith("engine") for name in names] == [True, False]


@pytest.mark.parametrize(
    ("clock", "share", "on_loop"),
    [
        ("thread_time", 0.5, True),
        ("perf_counter", 0.5, False),
        ("thread_time", 0.0, False),
    ],
)
async def test_a_run_that_waits_for_a_processor_may_go_to_the_loop(
    monkeypatch: pytest.MonkeyPatch, clock: str, share: float, on_loop: bool
) -> None:
    """On its thread a run also waits for the interpreter and a processor, and by a clock of CPU
    time that is not the run's own. One that only waits has something else to wait for."""
    engine, names = FakeEngine(), []
    seconds = {"thread_time": 0.0, "perf_counter": 0.0}

    def run(batch: Batch, scores: Scores) -> Scores:
        names.append(threading.current_thread().name)
        if threading.current_thread() is not threading.main_thread():
            seconds["thread_time"] += 0.05 * share
            seconds["perf_counter"] += 0.05 * share + 0.05
        return scores

    engine.spoil = run
    monkeypatch.setattr("app.scoring.engine_runs.perf_counter", lambda: seconds["perf_counter"])
    async with batcher(
        engine, runs=0, inline_seconds=0.04, clock=lambda: seconds[clock]
    ) as batches:
        for i in range(LEARNING_RUNS + 2):
            await score(batches, job(row_of(i)))
            await asyncio.sleep(0)
    on_thread = [name.startswith("engine") for name in names]
    assert on_thread == [True] * LEARNING_RUNS + [not on_loop] * 2


async def test_callers_of_one_turn_share_runs_inline_too() -> None:
    """Only the first of many callers is taken for alone; the others share one run."""
    engine = FakeEngine()
    async with batcher(engine, inline_seconds=INLINE) as batches:
        for _ in range(3):
            answers = await asyncio.gather(*(score(batches, job(row_of(i))) for i in range(9)))
            assert [a.logit.tolist() for a in answers] == [[float(i)] for i in range(9)]
    assert engine.rows == [1, 8, 9, 9]


async def test_each_run_is_observed_once() -> None:
    """The observer sees every batch that was scored, its scores, its time, and why it closed."""
    seen: list[tuple[int, int, float, Closed]] = []

    def observe(batch: Batch, scores: Scores, seconds: float, closed: Closed) -> None:
        seen.append((len(batch.candidate), len(scores.score), seconds, closed))

    engine = FakeEngine()
    async with batcher(engine, max_rows=4, observe=observe) as batches:
        await score(batches, job([[1, 0]] * 10))
    rows, scored, seconds, closed = zip(*seen, strict=True)
    assert list(rows) == list(scored) == engine.rows == [4, 4, 2]
    assert min(seconds) > 0
    assert closed == ("full", "full", "drained")


async def test_a_batch_says_why_it_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that runs at once; those that shared a run; a long list cut short beside short ones."""
    seen: list[tuple[int, Closed]] = []

    def observe(batch: Batch, scores: Scores, seconds: float, closed: Closed) -> None:
        seen.append((len(batch.candidate), closed))

    async with batcher(FakeEngine(), inline_seconds=INLINE, observe=observe) as batches:
        await score(batches, job(row_of(1)))
        await asyncio.gather(*(score(batches, job(row_of(i))) for i in range(3)))
        for _ in range(2):
            await score(batches, job(row_of(1)))
    assert seen == [(1, "alone"), (1, "alone"), (2, "drained"), (1, "drained"), (1, "alone")]
    seen.clear()

    def slowly(batch: Batch, scores: Scores) -> Scores:
        time.sleep(2 * SHARED_SECONDS)
        return scores

    engine = FakeEngine(slowly)
    # However late the list's turn comes.
    monkeypatch.setattr("app.scoring.job_queue.SHARING_SECONDS", LATER)
    async with batcher(engine, max_rows=32, observe=observe) as batches:
        async with Busy(engine, batches):
            waiting = [
                asyncio.create_task(score(batches, each))
                for each in (job([[1, 0]] * 12), job(row_of(1)))
            ]
            await until(lambda: batches.queued_rows == 13)
        await asyncio.gather(*waiting)
    assert (2, "shared") in seen


async def test_a_caller_learns_when_its_rows_came_and_ran() -> None:
    """Ready, begun and ended follow each other, whoever shared the run; 0 where none ran."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        async with Busy(engine, batches):
            jobs = [job(row_of(i)) for i in range(2)]
            waiting = [asyncio.create_task(score(batches, each)) for each in jobs]
            await until(lambda: batches.queued_rows == 2)
        await asyncio.gather(*waiting)
        first, second = (each.caller for each in jobs)
        assert 0 < first.encoded <= second.encoded <= first.begun < first.ended
        assert (first.begun, first.ended) == (second.begun, second.ended)
        late = job(row_of(1), seconds=-1)
        assert await outcome(asyncio.create_task(score(batches, late))) in (
            DeadlinePassed, Overloaded,
        )  # fmt: skip
        assert late.caller.begun == late.caller.ended == 0


@both_ways
async def test_a_list_began_with_the_first_of_its_runs(way: float) -> None:
    """Later ones change nothing; one on the thread is noted before it, as it may never end."""
    seen: list[float] = []
    listed = job([[place, 0] for place in range(20)])

    def note(batch: Batch, scores: Scores) -> Scores:
        seen.append(listed.caller.begun)
        return scores

    # Without experience no run is handed ahead, and none is on the loop.
    runs = 0 if way == THREAD else LEARNING_RUNS
    async with batcher(FakeEngine(note), runs=runs, inline_seconds=way, max_rows=8) as batches:
        await score(batches, listed)
    begun = listed.caller.begun
    assert seen == [begun if way == THREAD else 0, begun, begun]
