"""The queue takes turns between short requests and long lists, and counts every row once."""

from __future__ import annotations

import numpy as np

from app.errors import DeadlinePassed, EngineFailed
from app.features.graph_inputs import Scores
from app.scoring import delivery
from app.scoring.cost import CostModel
from app.scoring.job import Job
from app.scoring.job_queue import SHARING_SECONDS, JobQueue
from tests.app.scoring.test_job import Answers, job

MOST = 8


def waiting(*jobs: Job, cost: CostModel | None = None) -> JobQueue:
    """Return a queue with jobs that came at 0."""
    queue = JobQueue(MOST, cost or CostModel())
    for each in jobs:
        each.admitted = True
        queue.rows += each.rows
        queue.put(each, 0.0)
    return queue


def test_classes_take_turns() -> None:
    """While both wait, a list has every other run; none has rows of both."""
    listed, caller = job(20)
    queue = waiting(listed, *(job(2)[0] for _ in range(6)))
    now, runs = 2 * SHARING_SECONDS, []
    while queue:
        pieces, closed = queue.next_rows(now)
        runs.append((listed in [each for each, _, _ in pieces], closed))
        assert sum(stop - start for _, start, stop in pieces) <= MOST
    assert runs == [
        (False, "full"), (True, "full"), (False, "drained"), (True, "full"), (True, "drained"),
    ]  # fmt: skip
    assert (queue.rows, queue.abandoned, caller.given) == (0, 0, [])


def test_a_list_has_fewer_rows_while_short_requests_come_in() -> None:
    """And all that fit as soon as none came for a while."""
    cost = CostModel()
    for rows in (1, 8) * 20:
        cost.observe(rows, 0.001 * rows)
    short, listed = job(1)[0], job(40)[0]
    queue = waiting(short, listed, cost=cost)
    assert queue.next_rows(0.0)[0] == [(short, 0, 1)]
    pieces, closed = queue.next_rows(SHARING_SECONDS / 2)
    assert closed == "shared"
    assert 1 <= pieces[0][2] - pieces[0][1] < MOST
    pieces, closed = queue.next_rows(SHARING_SECONDS)
    assert (closed, pieces[0][2] - pieces[0][1]) == ("full", MOST)


def test_rows_that_nobody_waits_for_are_dropped() -> None:
    """A job past its deadline, and one that is answered, leave room for those behind them."""
    (late, late_caller), (answered, _), (last, _) = job(2), job(2), job(2)
    late_caller.deadline = 1.0
    answered.answered = True
    queue = waiting(late, answered, last)
    assert queue.next_rows(2.0) == ([(last, 0, 2)], "drained")
    assert (queue.rows, queue.abandoned) == (0, 2)
    assert [type(each) for each in late_caller.given] == [DeadlinePassed]
    assert queue.next_rows(2.0) == ([], "drained")


def test_a_list_that_grows_stands_in_the_queue_while_rows_are_ready() -> None:
    """Rows that are not ready count, and are not taken."""
    caller = Answers()
    growing = Job(caller, [bytes(4)], bytes(4 * 6), 6, ready=4)
    queue = waiting(growing)
    assert queue.next_rows(0.0)[0] == [(growing, 0, 4)]
    assert (bool(queue), queue.rows, growing.queued) == (False, 2, False)
    growing.ready = 6
    queue.put(growing, 0.0)
    assert queue.next_rows(0.0)[0] == [(growing, 4, 6)]
    assert queue.rows == 0


def test_a_score_that_is_no_number_fails_its_own_job_alone() -> None:
    """The others of the run have theirs, each its own rows."""
    (one, first), (bad, second), (two, third) = job(1), job(2), job(2)
    logit = np.array([1, 2, np.nan, 4, 5], np.float32)
    pieces = [(one, 0, 1), (bad, 0, 2), (two, 0, 2)]
    assert delivery.deliver(pieces, Scores(logit, logit / 10)) == 5
    assert first.given[0].logit.tolist() == [1]  # type: ignore[union-attr]
    assert isinstance(second.given[0], EngineFailed)
    assert third.given[0].logit.tolist() == [4, 5]  # type: ignore[union-attr]


def test_an_unexpected_error_is_named_by_its_type_alone() -> None:
    """What it says may be a value of somebody's request."""
    (one, first), (two, second) = job(1), job(1)
    delivery.fail([(one, 0, 1)], ValueError("secret"))
    delivery.fail([(two, 0, 1)], EngineFailed("the device is lost"))
    told = [str(each.given[0]) for each in (first, second)]
    assert told == ["the engine failed: ValueError", "the device is lost"]
