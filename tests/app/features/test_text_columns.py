"""Columns that are read without decoding have the texts that decoding gives, or are left to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.errors import ValueProblem
from app.features.text_columns import TextColumns, text_columns
from app.features.text_rows import TextRows
from tests.app.features.test_text_rows import ENCODERS, VALUES
from tests.support.encoding import in_bulk

PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'))
TEXTS = PLAIN | st.text(max_size=4) | st.sampled_from(['"', "\\", "],[", '","', "é", "null"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
STYLES: Sequence[Mapping[str, Any]] = (
    {}, {"separators": (",", ":")}, {"separators": (" , ", ": ")}, {"indent": 1},
    {"ensure_ascii": False},
)  # fmt: skip


def written(values: Sequence[Any], style: Mapping[str, Any]) -> dict[str, bytes]:
    """Values of JSON by name."""
    parts = (json.dumps(value, **style).encode() for value in values)
    return {f"f{place}": part for place, part in enumerate(parts)}


def texts(columns: TextColumns) -> list[list[str]]:
    """All texts, one list a column."""
    count = columns.starts.shape[1]
    return [[columns.text(f, row) for row in range(count)] for f in range(len(columns.names))]


@given(st.data(), st.integers(1, 5), st.integers(1, 5), st.sampled_from(STYLES[:2]))
@settings(max_examples=100)
def test_plain_columns_need_no_decoding(
    data: st.DataObject, fields: int, rows: int, style: Mapping[str, Any]
) -> None:
    """As serialisers write them: with a space behind a comma or without."""
    columns = [data.draw(st.lists(PLAIN, min_size=rows, max_size=rows)) for _ in range(fields)]
    found = text_columns(written(columns, style))
    assert found is not None
    assert texts(found) == columns
    start, stop = sorted(data.draw(st.tuples(st.integers(0, rows), st.integers(0, rows))))
    assert texts(found.rows(start, stop)) == [column[start:stop] for column in columns]
    assert texts(found.fields(1, 3)) == columns[1:3]
    assert found.fields(1, 3).names == found.names[1:3]


@pytest.mark.slow
@given(
    st.lists(JSON | st.lists(JSON, max_size=4) | st.lists(TEXTS, min_size=2, max_size=2),
             min_size=1, max_size=4),
    st.sampled_from(STYLES),
)  # fmt: skip
@example([["a", ["b"], "c"]], STYLES[1])
@example([["a", ["b", "c"], "d"]], STYLES[1])
@example([["a", {"b": "c"}, "d"]], STYLES[1])
@example([[["a"], ["b"]]], STYLES[1])
@example([{"a": "b"}, {"c": "d"}], STYLES[1])
@example([["a", 1, "b"], ["a", "b"]], STYLES[1])
@example([["a"], ["b", "c", "d"]], STYLES[1])
@example([["a", 1], ["b", "c"], "d", "e"], STYLES[0])
@example(["a", "b"], STYLES[1])
@example([["a", None], ["b"]], STYLES[1])
@settings(max_examples=300)
def test_whatever_is_read_is_what_decoding_gives(
    values: Sequence[Any], style: Mapping[str, Any]
) -> None:
    """Anything else than columns of texts is refused, whatever stands between its quotes."""
    found = text_columns(written(values, style))
    if found is not None:
        assert texts(found) == values
        assert all(type(value) is list for value in values)


@pytest.mark.parametrize(
    "values", [[[]], [["a\\"]], [['"']], [["é"]], [["a", None]], [["a"], ["b", "c"]], [["a", 1]]]
)
def test_other_columns_are_left_to_a_decoder(values: Sequence[Any]) -> None:
    """With escapes, other characters than ASCII, other values than texts, or of other lengths."""
    assert text_columns(written(values, {"ensure_ascii": False})) is None


@given(st.data(), st.integers(1, 6))
@settings(max_examples=100)
def test_texts_have_the_rows_that_they_have_decoded(data: st.DataObject, rows: int) -> None:
    """Known, unknown, long, empty and wrong ones."""
    values = [value for value in VALUES if isinstance(value, str) and value.isascii()]
    drawn = st.sampled_from([value for value in values if value.isprintable()]) | PLAIN
    columns = [data.draw(st.lists(drawn, min_size=rows, max_size=rows)) for _ in ENCODERS]
    found = text_columns(written(columns, {}))
    assert found is not None
    with in_bulk():
        look_ups = TextRows(ENCODERS)
    numbers = np.repeat(np.arange(len(ENCODERS)), rows)
    problems: dict[int, ValueProblem] = {}
    expected: dict[int, ValueProblem] = {}
    given_rows = look_ups.rows_of_columns(found, numbers, problems)
    decoded = look_ups.rows([text for column in columns for text in column], numbers, expected)
    assert given_rows.tolist() == decoded.tolist()
    assert {at: str(each) for at, each in problems.items()} == {
        at: str(each) for at, each in expected.items()
    }
