"""All problems of a request are counted, the first few named; unknown fields are noticed."""

from __future__ import annotations

import logging

import pytest

from app.errors import Detail, Invalid, ValueProblem
from app.scoring.not_finite import MAX_DETAILS
from app.scoring.problems import NAME_LENGTH, FieldNames, Problems
from tests.support.encoding import PRICE, TAGS, USER, encoder_for

ENCODER = encoder_for(USER, TAGS, PRICE, frame={"user": ["a"], "tags": [["a"]], "price": [1]})


def found(problems: Problems) -> list[tuple[str, str]]:
    return [tuple(detail) for detail in problems.details]


def test_the_first_problems_are_kept_and_all_are_counted() -> None:
    """However many there are, the answer is bounded and says how many."""
    problems = Problems()
    problems.raise_if_any()
    for number in range(MAX_DETAILS * 3):
        problems.add(f"p{number}", ValueProblem("wrong", number % 2 or None))
    with pytest.raises(Invalid) as caught:
        problems.raise_if_any()
    assert caught.value.total == MAX_DETAILS * 3
    assert list(caught.value.details[:2]) == [Detail("p0", "wrong"), Detail("p1[1]", "wrong")]
    assert len(caught.value.details) == MAX_DETAILS


def test_a_row_has_all_its_problems() -> None:
    """Each field that breaks a rule is named, with the place inside a list."""
    problems = Problems()
    problems.add_row(ENCODER.candidate, {"tags": ["a", None], "price": "3"}, "row")
    assert found(problems) == [
        ("row.price", "expected a number, got text"),
        ("row.tags[1]", "null inside a list"),
    ]


def test_unknown_fields_are_refused_with_the_nearest_name() -> None:
    """Where unknown fields are errors, a typing mistake is easy to see."""
    names, problems = FieldNames(ENCODER, known_only=True), Problems()
    names.check(["user", "prise", "x" * 10_000], "row", problems)
    assert found(problems) == [
        ("row.prise", "unknown field; did you mean 'price'?"),
        ("row." + "x" * NAME_LENGTH, "unknown field"),
    ]


def test_unknown_fields_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Where they are ignored, a metric and one line of log tell that they come."""
    counts: list[int] = []
    names, problems = FieldNames(ENCODER, False, counts.append), Problems()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            names.check(["user", "one", "two"], "row", problems)
    assert problems.total == 0
    assert counts == [2, 2, 2]
    assert caplog.messages == ["unknown field 'one' ignored", "unknown field 'two' ignored"]


def test_callers_cannot_fill_the_log_with_names(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the first 1,000 unknown fields; the others are counted."""
    counts: list[int] = []
    names, problems = FieldNames(ENCODER, False, counts.append), Problems()
    with caplog.at_level(logging.WARNING):
        for row in range(5):
            names.check([f"name {row} {number}" for number in range(500)], "row", problems)
    assert sum(counts) == 2_500
    assert len(caplog.messages) == 1_000
    assert caplog.messages[-1] == "unknown field 'name 1 499' ignored"


@pytest.mark.parametrize("known_only", [False, True])
def test_a_field_on_the_wrong_side_is_a_problem(known_only: bool) -> None:
    """Ignoring it would give another score without a word."""
    names, problems = FieldNames(ENCODER, known_only), Problems()
    names.check_side("context", ["user", "price"], "context", problems)
    names.check_side("candidate", ["user", "price"], "candidates[0].features", problems)
    assert found(problems) == [
        ("context.price", "this is a candidate field"),
        ("candidates[0].features.user", "this is a context field"),
    ]
