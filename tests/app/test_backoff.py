"""Pauses between tries double up to a bound, and start over after a success."""

from __future__ import annotations

from app.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    """The first failure has the first pause; no pause is longer than the longest."""
    backoff = Backoff(0.5, 3.0)
    assert backoff.pause == 0
    assert [backoff.fail() for _ in range(5)] == [0.5, 1, 2, 3, 3]


def test_the_first_retry_may_be_at_once() -> None:
    """With ``at_once`` doubling begins at the second failure."""
    backoff = Backoff(0.25, 1.0, at_once=True)
    assert [backoff.fail() for _ in range(5)] == [0, 0.25, 0.5, 1, 1]


def test_a_success_starts_over() -> None:
    """After a reset the pauses are those of the first failures again."""
    backoff = Backoff(1, 30)
    before = [backoff.fail() for _ in range(3)]
    backoff.reset()
    assert (before, backoff.pause, backoff.fail()) == ([1, 2, 4], 0, 1)


def test_failures_without_end_keep_the_longest_pause() -> None:
    """Thousands of failures in a row neither overflow nor lengthen the pause."""
    backoff = Backoff(0.5, 30)
    assert {backoff.fail() for _ in range(5000)} <= {0.5, 1, 2, 4, 8, 16, 30}
    assert backoff.pause == 30
