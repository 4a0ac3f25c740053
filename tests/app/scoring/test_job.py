"""A job is answered exactly once: with all its scores, or with the first error."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from app.errors import DeadlinePassed, EngineFailed
from app.features.graph_inputs import Scores
from app.scoring.job import Job, assemble


class Answers:
    """A ``Caller`` that keeps all answers that it gets."""

    deadline = float("inf")
    trace = None
    of_page = False

    def __init__(self) -> None:
        self.encoded = self.begun = self.ended = 0.0
        self.given: list[Scores | Exception] = []

    def departed(self) -> bool:
        return False

    def scored(self, scores: Scores) -> None:
        self.given.append(scores)

    def scored_alone(self, logit: float, score: float) -> None:
        self.scored(Scores(np.array([logit], np.float32), np.array([score], np.float32)))

    def failed(self, error: Exception) -> None:
        self.given.append(error)


def job(rows: int) -> tuple[Job, Answers]:
    caller = Answers()
    return Job(caller, [bytes(4)], bytes(4 * rows), rows), caller


def scores(*logits: float) -> Scores:
    logit = np.array(logits, np.float32)
    return Scores(logit, logit / 10)


def test_a_part_of_a_job_has_the_contexts_of_its_rows() -> None:
    """Rows have their own contexts, whichever part they are in and whoever is beside them."""
    contexts = [number.to_bytes(4, sys.byteorder) for number in range(5)]
    long = Job(Answers(), contexts, bytes(4 * 6), 6, [0, 1, 2, 3, 1, 4])
    other, _ = job(2)
    batch = assemble([(other, 0, 2), (long, 3, 6)], 1, 1)
    assert batch.context.ravel()[batch.row_context].tolist() == [0, 0, 3, 1, 4]
    assert len(batch.context) == 4
    batch = assemble([(long, 0, 3), (other, 1, 2)], 1, 1)
    assert batch.context.ravel()[batch.row_context].tolist() == [0, 1, 2, 0]
    assert (len(batch.context), len(batch.candidate)) == (3, 4)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_parts_come_together_in_any_order(order: tuple[int, ...]) -> None:
    """The answer has every row's score at its place, and comes with the last part."""
    parts = [(0, scores(1, 2)), (2, scores(3)), (3, scores(4, 5, 6))]
    each, caller = job(6)
    for count, place in enumerate(order):
        assert len(caller.given) == 0, count
        each.deliver(*parts[place])
    [answer] = caller.given
    assert isinstance(answer, Scores)
    assert answer.logit.tolist() == [1, 2, 3, 4, 5, 6]
    assert answer.score.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


def test_a_job_of_one_run_is_answered_with_its_arrays() -> None:
    """Nothing is copied where one run scored all rows."""
    each, caller = job(2)
    each.deliver(0, run := scores(1, 2))
    assert caller.given == [run]
    assert caller.given[0] is run


def test_the_first_error_is_the_answer() -> None:
    """Later errors and scores change nothing."""
    each, caller = job(2)
    each.deliver(0, scores(1))
    each.fail(error := DeadlinePassed("late"))
    each.fail(EngineFailed("later"))
    each.deliver(1, scores(2))
    assert caller.given == [error]


def test_a_batch_says_that_somebody_tries_rows_of_it() -> None:
    """Whichever job of it comes from a page, alone or beside others."""
    one, two, tried = job(1)[0], job(2)[0], job(2)[0]
    tried.caller.of_page = True
    for jobs, expected in (([one], False), ([one, two], False), ([tried], True),
                           ([one, tried], True), ([tried, two], True)):  # fmt: skip
        assert assemble([(each, 0, each.rows) for each in jobs], 1, 1).of_page is expected


def test_an_error_after_the_scores_is_dropped() -> None:
    """A caller with its scores gets no error."""
    each, caller = job(1)
    each.deliver(0, scores(1))
    each.fail(EngineFailed("later"))
    assert len(caller.given) == 1


def test_rows_are_ready_unless_said_otherwise() -> None:
    """A list that is still being encoded says how many rows are ready."""
    each, caller = job(3)
    assert each.ready == 3
    assert Job(caller, [b""], bytearray(12), 3, ready=0).ready == 0


def test_at_the_deadline_the_first_scores_may_be_the_answer() -> None:
    """Of a job that may be answered in part, if there is any score; other errors stay errors."""
    late = DeadlinePassed("too late")
    made, answers = job(5)
    made.partial = True
    made.deliver(0, scores(1, 2))
    made.fail(late)
    made.deliver(2, scores(3, 4, 5))
    (found,) = answers.given
    assert isinstance(found, Scores)
    assert found.logit.tolist() == [1, 2]
    for partial, done, error in ((True, 0, late), (False, 2, late), (True, 2, EngineFailed("no"))):
        made, answers = job(5)
        made.partial = partial
        if done:
            made.deliver(0, scores(1, 2))
        made.fail(error)
        assert answers.given == [error]
