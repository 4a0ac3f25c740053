"""Where an engine has room for two runs, both are under way, and every answer is its caller's."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from typing import Any

import numpy as np
import pytest

from app.errors import EngineFailed
from app.features.graph_inputs import Batch, Scores
from app.scoring.batcher import MicroBatcher
from app.scoring.engine_runs import EngineRuns
from app.scoring.job import Closed, Job
from tests.support.fakes import FakeEngine, FakeRequest
from tests.support.turns import until

pytestmark = pytest.mark.anyio
WIDTH = 2


def batcher(engine: FakeEngine, **settings: Any) -> MicroBatcher:
    """A batcher of two runs in flight, none of which holds the loop."""
    return MicroBatcher(engine, 1, WIDTH, **{"inline_seconds": -1.0, "in_flight": 2, **settings})


def job(values: list[int], seconds: float = 60.0, partial: bool = False) -> tuple[Job, FakeRequest]:
    """Rows whose logits are the values."""
    caller = FakeRequest(seconds)
    packed = np.array([[value, 0] for value in values], np.int32).tobytes()
    found = Job(caller, [np.int32(0).tobytes()], packed, len(values))
    found.partial = partial
    return found, caller


def logits(caller: FakeRequest) -> list[float]:
    assert isinstance(caller.answer, Scores), caller.answer
    found: list[float] = caller.answer.logit.tolist()
    return found


async def test_two_runs_are_under_way_and_no_more() -> None:
    """The third waits, and takes all that has gathered meanwhile."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=4) as batches:
        engine.gate.clear()
        jobs = [job([number]) for number in range(5)]
        for number, (each, _) in enumerate(jobs):
            batches.submit(each)
            await until(lambda n=number: len(engine.batches) == min(n + 1, 2))  # type: ignore[misc]
        await asyncio.sleep(0.05)
        assert engine.rows == [1, 1]
        assert batches.queued_rows == 3
        assert not batches.idle
        engine.gate.set()
        await until(lambda: all(caller.answer for _, caller in jobs))
        assert [logits(caller) for _, caller in jobs] == [[0], [1], [2], [3], [4]]
        assert engine.rows == [1, 1, 3]
        assert batches.idle


async def test_a_list_that_is_alone_has_both_runs() -> None:
    """The second one begins at once, not when somebody else comes."""
    engine = FakeEngine()
    async with batcher(engine, max_rows=4) as batches:
        engine.gate.clear()
        whole, caller = job(list(range(12)))
        batches.submit(whole)
        assert batches.queued_rows == 4
        await until(lambda: len(engine.batches) == 2)
        engine.gate.set()
        await until(lambda: caller.answer is not None)
        assert logits(caller) == list(range(12))
    assert engine.rows == [4, 4, 4]


async def test_each_of_two_runs_says_why_its_batch_was_closed() -> None:
    """The one that began first may end last."""
    may_end = [threading.Event(), threading.Event()]
    told: list[tuple[int, Closed]] = []

    def held(batch: Batch, scores: Scores) -> Scores:
        may_end[batch.candidate[0, 0] // 100].wait()
        return scores

    def observe(batch: Batch, scores: Scores, seconds: float, closed: Closed) -> None:
        told.append((len(batch.candidate), closed))

    async with batcher(FakeEngine(held), max_rows=4, observe=observe) as batches:
        jobs = [job([0, 1, 2, 3]), job([100, 101])]
        for each, _ in jobs:
            batches.submit(each)
        for end, (_, caller) in reversed([*zip(may_end, jobs, strict=True)]):
            end.set()
            await until(lambda it=caller: it.answer is not None)  # type: ignore[misc]
    assert told == [(2, "drained"), (4, "full")]


async def test_runs_of_a_list_may_end_in_any_order() -> None:
    """Each part is put where its rows are."""
    pauses = random.Random(4)

    def late(batch: Batch, scores: Scores) -> Scores:
        threading.Event().wait(pauses.choice([0, 0.003]))
        return scores

    engine = FakeEngine(late)
    async with batcher(engine, max_rows=4) as batches:
        lists = [list(range(start, start + 41)) for start in (0, 100, 200)]
        jobs = [job(each) for each in lists]
        for each, _ in jobs:
            batches.submit(each)
        await until(lambda: all(caller.answer for _, caller in jobs))
        assert [logits(caller) for _, caller in jobs] == lists
        assert batches.queued_rows == 0


async def test_what_is_answered_in_part_are_the_first_rows() -> None:
    """Rows behind a run that has not ended are no part of it, though they have scores."""
    engine, first_may_end = FakeEngine(), threading.Event()

    def hold_the_first(batch: Batch, scores: Scores) -> Scores:
        if batch.candidate[0, 0] == 4:
            first_may_end.wait()
        return scores

    engine.spoil = hold_the_first
    async with batcher(engine, max_rows=4) as batches:
        whole, caller = job(list(range(20)), partial=True)
        batches.submit(whole)
        # All but the run that is held.
        await until(lambda: whole.done == 16)
        caller.deadline = 0.0
        await until(lambda: caller.answer is not None)
        assert logits(caller) == [0, 1, 2, 3]
        first_may_end.set()


async def test_a_storm_of_callers_is_answered_rightly() -> None:
    """Short requests and lists, failures among them: a right answer or an error, each once."""
    rng = random.Random(7)

    def sometimes(batch: Batch, scores: Scores) -> Scores:
        if rng.random() < 0.1:
            raise EngineFailed("the device is out of memory")
        return scores

    engine = FakeEngine(sometimes)
    async with batcher(engine, max_rows=16) as batches:
        jobs = []
        for number in range(400):
            values = [rng.randrange(10_000) for _ in range(rng.choice([1, 1, 1, 5, 60]))]
            each, caller = job(values)
            batches.submit(each)
            jobs.append((values, caller))
            if number % 7 == 0:
                await asyncio.sleep(0)
        await until(lambda: all(caller.answer is not None for _, caller in jobs))
        failed = 0
        for values, caller in jobs:
            if isinstance(caller.answer, EngineFailed):
                failed += 1
            else:
                assert logits(caller) == values
        assert 0 < failed < len(jobs)
        assert batches.idle
        assert batches.queued_rows == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_is_gone_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its callers get an error soon, and later ones their scores, by both threads."""
    engine = FakeEngine()
    async with batcher(engine) as batches:
        with monkeypatch.context() as patch:
            patch.setattr(EngineRuns, "run", lambda *_, **__: sys.exit())
            lost, caller = job([1])
            batches.submit(lost)
            await until(lambda: caller.answer is not None)
        assert isinstance(caller.answer, EngineFailed)
        engine.gate.clear()
        after = [job([2]), job([3])]
        for number, (each, _) in enumerate(after, 1):
            batches.submit(each)
            await until(lambda n=number: len(engine.batches) == n)  # type: ignore[misc]
        engine.gate.set()
        await until(lambda: all(caller.answer for _, caller in after))
        assert [logits(caller) for _, caller in after] == [[2], [3]]


async def test_a_run_that_hangs_beside_another_is_told() -> None:
    """All callers get an error, those of the other run and of the queue too."""
    engine, told = FakeEngine(), []
    settings = {"hang_seconds": 0.2, "hung": lambda: told.append("hung"), "max_rows": 4}
    async with batcher(engine, **settings) as batches:
        engine.gate.clear()
        jobs = [job([number]) for number in range(4)]
        for number, (each, _) in enumerate(jobs):
            batches.submit(each)
            await until(lambda n=number: len(engine.batches) == min(n + 1, 2))  # type: ignore[misc]
        await until(lambda: all(caller.answer for _, caller in jobs))
        assert all(isinstance(caller.answer, EngineFailed) for _, caller in jobs)
        for _ in range(2):  # As soon as the other one is found to hang too.
            batches._end_hung()
        engine.gate.set()
    assert told == ["hung"]
