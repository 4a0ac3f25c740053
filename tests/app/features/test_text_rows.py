"""Texts of many rows, looked up together, have the rows that each has alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ValueProblem
from app.features import encoder as encoders
from app.features.encoder import Encoder, FieldProblems
from app.features.field_encoders import CategoricalEncoder
from app.features.spec import Categorical
from app.features.text_rows import TEXT_BYTES, TextRows, as_numbers
from tests.support.encoding import encoded_columns, encoder_for, in_bulk
from tests.support.frames import learned
from tests.support.logs import Log, logs

TEXTS = [
    "", "a", "b", "aa", "é", "e\u0301", "\x00", "a\x00", "\ud800", "12345678", "123456789",
    "1" * TEXT_BYTES, "1" * (TEXT_BYTES + 1), "é" * 8, "é" * 9, "\U0001f600" * 4, "null", "~",
]  # fmt: skip
LEARNED = [text for text in TEXTS if "\ud800" not in text]
VALUES = [*TEXTS, None, 1, -1, 12345678, 2**64, 1.5, True, [], {}]
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "plain": {}, "required": {"required": True}, "nulls": {"null_values": ("null", "~", "-1")},
    "empty": {"empty_is_missing": False}, "both": {"required": True, "null_values": ("a", "1")},
}  # fmt: skip


def categorical() -> Encoder:
    """An encoder of fields of text with different rules."""
    fields = [
        Categorical(name=name, side="context", min_count=1, **keys) for name, keys in FIELDS.items()
    ]
    return encoder_for(*fields, frame=dict.fromkeys(FIELDS, LEARNED))


ENCODERS = [each for each in categorical().context.encoders if isinstance(each, CategoricalEncoder)]


def alone(encoder: CategoricalEncoder, value: Any) -> int | str:
    """The row of a value, or its problem."""
    try:
        (row,) = encoder.one(value)
    except ValueProblem as problem:
        return str(problem)
    return row


@given(
    st.lists(
        st.tuples(st.sampled_from(range(len(FIELDS))), st.sampled_from(VALUES) | st.text()),
        max_size=40,
    ),
    st.sampled_from([0.1, 0.6, 2.0, 50.0]),
)
@settings(max_examples=300)
def test_each_value_has_the_row_that_it_has_alone(
    values: Sequence[tuple[int, Any]], load: float
) -> None:
    """For every kind of value and of field, and however full the tables are."""
    with in_bulk(load):
        texts = TextRows(ENCODERS)
    problems: dict[int, ValueProblem] = {}
    fields = np.array([field for field, _ in values], np.intp)
    rows = texts.rows([value for _, value in values], fields, problems)
    found = [
        str(problems[place]) if place in problems else row
        for place, row in enumerate(rows.tolist())
    ]
    assert found == [alone(ENCODERS[field], value) for field, value in values]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1))
@settings(max_examples=200)
def test_numbers_of_different_texts_differ(texts: list[str]) -> None:
    """Up to the length that a number can tell; longer ones are said to be long."""
    if any("\0" in text for text in texts):
        with pytest.raises(ValueError, match="null"):
            as_numbers(texts)
        return
    low, high, long = as_numbers(texts)
    read = [
        int(first).to_bytes(8, "little") + int(second).to_bytes(8, "little")
        for first, second in zip(low, high, strict=True)
    ]
    sizes = [len(text.encode()) for text in texts]
    expected = [place for place, size in enumerate(sizes) if size > TEXT_BYTES]
    assert ([] if long is None else long.tolist()) == expected
    assert read == [text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0") for text in texts]


def test_most_texts_have_a_place_in_a_table() -> None:
    """The encoders are asked about few: of 20,000 known and as many unknown ones."""
    known = [f"{number:x}" for number in range(20_000)]
    fields = [Categorical(name=name, side="context", min_count=1) for name in ("one", "two")]
    encoder = encoder_for(*fields, frame={"one": known, "two": known[::-1]})
    own = [each for each in encoder.context.encoders if isinstance(each, CategoricalEncoder)]
    texts = TextRows(own)
    unknown = [f"{number:x}" for number in range(20_000, 40_000)]
    for values, most in ((known, 0.03), (unknown, 0.11)):
        for number in (0, 1):
            found = texts._find(values, np.full(len(values), number))
            assert (found < 0).mean() < most
            expected = np.array([own[number].index(value, None) for value in values])
            assert ((found == expected) | (found < 0)).all()


def columns_of(log: Log) -> dict[str, list[Any]]:
    """The values of a log by field, as a columnar request has them."""
    return {name: [thing.json for thing in things] for name, things in log.columns.items()}


@pytest.mark.slow
@given(logs(), st.integers(1, 8), st.sampled_from([1, 4_096]))
@settings(max_examples=100)
def test_columns_are_those_of_one_field_after_the_other(log: Log, rows: int, step: int) -> None:
    """Whatever other fields there are, and however many columns a step takes."""
    vocabulary = learned(log.spec, log.parquet()[:rows])
    with in_bulk(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "TEXTS_OF_STEP", step)
        together, apart = Encoder(log.spec, vocabulary, in_bulk=True), Encoder(log.spec, vocabulary)
        for one, other in (
            (together.context, apart.context), (together.candidate, apart.candidate)
        ):  # fmt: skip
            columns = columns_of(log)
            expected = encoded_columns(other, columns, log.rows)
            assert (encoded_columns(one, columns, log.rows) == expected).all()


def test_all_problems_of_columns_are_told() -> None:
    """Of each field all rows, in their order, as one column after the other tells them."""
    columns = {"plain": [1.5, "a", [], None], "required": [None, "", "x", {}], "nulls": ["a"] * 4}
    told = []
    for encoder in (categorical(), categorical()):
        if told:
            encoder.context.texts = TextRows(ENCODERS)
        with pytest.raises(FieldProblems) as caught:
            encoded_columns(encoder.context, columns, 4)
        told.append(
            {
                name: [(row, problem.problem) for row, problem in each.problems]
                for name, each in caught.value.fields.items()
            }
        )
    assert told[0] == told[1]
    assert list(told[0]) == list(told[1])
    assert [row for row, _ in told[0]["required"]] == [0, 1, 3]
