"""Each caller of a run is given its own scores, or an error of its own."""

from __future__ import annotations

import numpy as np
import pytest

from app.errors import EngineFailed
from app.features.graph_inputs import Scores
from app.scoring import delivery
from tests.app.scoring.test_job import Answers, job


def told(caller: Answers) -> list[float] | type[Exception]:
    """Return the logits of a caller's only answer, or the type of its error."""
    (answer,) = caller.given
    if isinstance(answer, Exception):
        return type(answer)
    np.testing.assert_array_equal(answer.score, answer.logit / 10)
    logits: list[float] = answer.logit.tolist()
    return logits


@pytest.mark.parametrize("bad", [None, 0, 3, 5, 6])
def test_each_job_of_a_run_has_its_own_rows(bad: int | None) -> None:
    """Single rows, lists and parts of lists, in any company; where a score is no number, all but
    its own job."""
    jobs = [job(rows) for rows in (1, 1, 2, 4, 1)]
    (first, second, pair, cut, last), callers = zip(*jobs, strict=True)
    logit = np.arange(1, 8, dtype=np.float32)
    if bad is not None:
        logit[bad] = np.inf
    delivery.deliver([(cut, 0, 1)], Scores(np.float32([50]), np.float32([5])))
    pieces = [(first, 0, 1), (second, 0, 1), (pair, 0, 2), (cut, 1, 3), (last, 0, 1)]
    assert delivery.deliver(pieces, Scores(logit, logit / 10)) == 7
    delivery.deliver([(cut, 3, 4)], Scores(np.float32([60]), np.float32([6])))
    expected: list[list[float] | type[Exception]] = [[1], [2], [3, 4], [50, 5, 6, 60], [7]]
    if bad is not None:
        expected[(0, 1, 2, 2, 3, 3, 4)[bad]] = EngineFailed
    assert [told(caller) for caller in callers] == expected


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
