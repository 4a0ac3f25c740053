"""The queue takes turns between short requests and long lists, and counts every row once."""

from __future__ import annotations

import pytest

from app.errors import DeadlinePassed
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


@pytest.mark.parametrize(
    ("max_rows", "base", "per_row", "rows"),
    [(512, 0.0005, 0.0000149, 100), (512, 0.01, 0.01, 32), (8, 0.01, 0.01, 1), (64, 0.0, 0.0, 64)],
    ids=["what is quick", "a sixteenth", "one", "all"],
)
def test_a_run_beside_short_requests_ends_soon(
    max_rows: int, base: float, per_row: float, rows: int
) -> None:
    """It has the rows of two milliseconds, a sixteenth of the largest run at least."""
    cost = CostModel()
    cost.base, cost.per_row = base, per_row
    queue = JobQueue(max_rows, cost)
    queue.put(job(1)[0], 0.0)
    queue.put(job(1_000)[0], 0.0)
    queue.next_rows(0.0)
    ((_, start, stop),), _ = queue.next_rows(0.0)
    assert range(start, stop) == range(rows)


def test_up_to_a_quarter_of_a_run_is_a_short_request() -> None:
    """Others are expected for a while after it has come, and not before the first."""
    queue = JobQueue(18, CostModel())
    assert not queue.is_shared(0.0)
    queue.put(job(5)[0], 100.0)
    assert (len(queue.short), len(queue.long), queue.is_shared(100.0)) == (0, 1, False)
    queue.put(job(4)[0], 100.0)
    assert (len(queue.short), len(queue.long)) == (1, 1)
    assert queue.is_shared(100.0 + SHARING_SECONDS / 2)
    assert not queue.is_shared(100.0 + 2 * SHARING_SECONDS)


def test_long_lists_take_turns_among_themselves() -> None:
    """Each has every third run of three, in the order in which they came."""
    lists = [job(20)[0] for _ in range(3)]
    queue = waiting(*lists)
    runs = [queue.next_rows(2 * SHARING_SECONDS)[0] for _ in range(5)]
    assert [lists.index(each) for ((each, _, _),) in runs] == [0, 1, 2, 0, 1]


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


def test_what_is_dropped_of_a_list_are_the_rows_that_no_run_took() -> None:
    """At its deadline it is still wanted, and no later."""
    listed, caller = job(20)
    caller.deadline = 1.0
    queue = waiting(listed)
    assert queue.next_rows(1.0)[0] == [(listed, 0, MOST)]
    assert queue.next_rows(1.1)[0] == []
    assert (queue.rows, queue.abandoned, bool(queue)) == (0, 1, False)


def test_a_list_that_grows_stands_in_the_queue_while_rows_are_ready() -> None:
    """Rows that are not ready count, and are not taken."""
    caller = Answers()
    growing = Job(caller, [bytes(4)], bytes(4 * 6), 6, ready=4)
    queue = waiting(growing)
    assert growing.queued
    assert queue.next_rows(0.0)[0] == [(growing, 0, 4)]
    assert (bool(queue), queue.rows, growing.queued) == (False, 2, False)
    growing.ready = 6
    queue.put(growing, 0.0)
    assert queue.next_rows(0.0)[0] == [(growing, 4, 6)]
    assert queue.rows == 0
