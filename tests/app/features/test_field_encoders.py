"""Each kind of field: which word a value gives, and which values are problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from app.errors import ValueProblem
from app.features.encoder import FieldProblems
from app.features.layout import PADDING
from app.features.spec import Categorical, Field, MultiCategorical, Numeric, Time
from tests.support.encoding import (
    FIELDS,
    MISSING_ROW,
    OOV_ROW,
    PRICE,
    SCALED,
    TAGS,
    USER,
    VALUE_ROW,
    encoded_columns,
    encoded_row,
    encoder_for,
    indices,
    numbers,
    side_of,
    tags,
    user,
)
from tests.support.logs import RESERVED_LOOKALIKES


@pytest.mark.parametrize("text", [*RESERVED_LOOKALIKES, "missing", "OOV", "<unk>", " "])
def test_text_never_hits_a_reserved_index(text: str) -> None:
    """Text that other systems reserve is OOV until it was learned, and then a value."""
    assert indices(encoder_for(USER), USER, text) == [OOV_ROW]
    learned = encoder_for(USER, frame={"user": [text, "other"]})
    assert indices(learned, USER, text)[0] > OOV_ROW
    assert indices(learned, USER, None) == [MISSING_ROW]
    as_list = encoder_for(TAGS, frame={"tags": [[text]]})
    assert indices(as_list, TAGS, [text])[0] > OOV_ROW


def test_empty_text_is_missing_unless_it_is_a_value() -> None:
    """``empty_is_missing = false`` makes the empty text a value like any other."""
    assert indices(encoder_for(USER), USER, "") == [MISSING_ROW]
    field = user(empty_is_missing=False)
    assert indices(encoder_for(field), field, "") == [OOV_ROW]
    learned = encoder_for(field, frame={"user": ["", "a"]})
    assert indices(learned, field, "")[0] > OOV_ROW
    assert indices(learned, field, None) == [MISSING_ROW]


@pytest.mark.parametrize("dtype", ["integer", "string"])
def test_one_number_in_four_forms(dtype: Any) -> None:
    """1, "1", 1.0 and "1.0" are one value of an integer field; a string field keeps its text."""
    field = user(dtype=dtype)
    encoder = encoder_for(field, frame={"user": ["1", "2"]})
    known = indices(encoder, field, 1)
    assert known[0] > OOV_ROW
    assert indices(encoder, field, "1") == known
    if dtype == "integer":
        assert indices(encoder, field, 1.0) == indices(encoder, field, "1.0") == known
    else:
        assert indices(encoder, field, "1.0") == [OOV_ROW]


def test_booleans_have_a_dtype_of_their_own() -> None:
    """JSON's booleans and their text are two values of a boolean field, and no value elsewhere."""
    for field, wrap in (
        (user(dtype="boolean"), lambda v: v),
        (tags(dtype="boolean"), lambda v: [v]),
    ):
        learned = encoder_for(field, frame={field.name: [wrap(True), wrap(False), wrap(True)]})
        side = side_of(learned, field)
        for value, row in ((True, OOV_ROW + 1), ("TRUE", OOV_ROW + 1), (False, OOV_ROW + 2)):
            assert indices(learned, field, wrap(value))[0] == row
            assert encoded_columns(side, {field.name: [wrap(value)]}, 1)[0, 0] == row
        only_true = encoder_for(field, frame={field.name: [wrap(True)]})
        assert indices(only_true, field, wrap("false"))[0] == OOV_ROW
        for value in ("yes", 1, 0.0, "1"):
            with pytest.raises(ValueProblem, match="expected true or false"):
                indices(learned, field, wrap(value))
            with pytest.raises(FieldProblems, match="expected true or false"):
                encoded_columns(side, {field.name: [wrap(value)]}, 1)


@pytest.mark.parametrize("value", [2**64 - 1, 2**63, 2**53 + 1, -(2**63)])
def test_large_integers_are_exact(value: int) -> None:
    """Neighbours of a large integer are other values, in every form."""
    field = user(dtype="integer")
    encoder = encoder_for(field, frame={"user": [str(value)]})
    assert indices(encoder, field, value) == indices(encoder, field, str(value)) == [3]
    near = value + 1 if value < 0 else value - 1
    assert indices(encoder, field, near) == indices(encoder, field, str(near)) == [OOV_ROW]


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS.keys())
@pytest.mark.parametrize("value", [True, False, {}, {"a": [1, {}]}, [[]], [{}], [True], ({},)])
def test_wrong_types_are_problems(field: Field, value: Any) -> None:
    """A boolean is never 1, and what cannot be hashed is a problem, not a crash."""
    frame = {field.name: [["1"]] if isinstance(field, MultiCategorical) else [1]}
    side = side_of(encoder_for(field, frame=frame), field)
    side.row({})
    with pytest.raises(ValueProblem):
        side.row({field.name: value})
    with pytest.raises(FieldProblems):
        encoded_columns(side, {field.name: [None, value]}, 2)


@pytest.mark.parametrize("name", ["edges", "quantile", "log_squared", "scaled"])
@pytest.mark.parametrize(
    "value", ["1", "", float("nan"), float("inf"), -float("inf"), 3.5e38, 10**400]
)
def test_what_is_no_number_is_a_problem(name: str, value: Any) -> None:
    """Numeric fields take finite JSON numbers only, alone and in columns."""
    field = FIELDS[name]
    side = encoder_for(field, frame={"price": [1, 2]}).candidate
    with pytest.raises(ValueProblem):
        side.row({"price": value})
    with pytest.raises(FieldProblems):
        encoded_columns(side, {"price": [1, value]}, 2)


def test_bucket_edges_are_inclusive_below() -> None:
    """Bucket b holds edges[b-1] <= x < edges[b], of float32(x)."""
    encoder = encoder_for(PRICE, frame={"price": [0.0]})
    values = [0.99, 1.0, 1, 1.0 - 1e-9, 1.9999, 2, 2.0, 1e30]
    assert [indices(encoder, PRICE, v)[0] - 3 for v in values] == [0, 1, 1, 1, 1, 2, 2, 2]


def test_numbers_are_float32_before_they_meet_an_edge() -> None:
    """0.1 is not below the float32 edge 0.1: both are the same float32."""
    field = Numeric(name="price", side="candidate", encoding="edges", edges=(0.1,))
    encoder = encoder_for(field, frame={"price": [0.0]})
    below = float(np.nextafter(np.float32(0.1), np.float32(0)))
    values = [0.1, float(np.float32(0.1)), 0.1 - 1e-12, below]
    assert [indices(encoder, field, v)[0] - 3 for v in values] == [1, 1, 1, 0]
    assert encoded_columns(encoder.candidate, {"price": values}, 4).ravel().tolist() == [4, 4, 4, 3]


def test_lists_are_cut_on_one_side_in_training_and_serving() -> None:
    """The first ``max_values`` are kept, and only these are learned."""
    field = tags(max_values=2)
    encoder = encoder_for(field, frame={"tags": ["a|b|c", "|b||a|c"]})
    a, b = indices(encoder, field, ["a"])[0], indices(encoder, field, ["b"])[0]
    assert indices(encoder, field, ["a", "b", "c"]) == [a, b]
    assert indices(encoder, field, ["", "b", "", "a", "c"]) == [b, a]
    assert indices(encoder, field, ["c"]) == [OOV_ROW, PADDING]


def test_duplicates_stay() -> None:
    """A value that is there twice counts twice."""
    field = tags(max_values=3)
    encoder = encoder_for(field, frame={"tags": [["a"]]})
    assert indices(encoder, field, ["a", "a"]) == [3, 3, PADDING]


def test_empty_list_is_not_a_missing_list() -> None:
    """An empty list is padding only; a missing one has the missing row."""
    field = tags(max_values=3)
    encoder = encoder_for(field)
    assert indices(encoder, field, []) == indices(encoder, field, [""]) == [PADDING] * 3
    assert indices(encoder, field, None) == [MISSING_ROW, PADDING, PADDING]
    assert encoded_row(encoder.candidate, {}) == [MISSING_ROW, PADDING, PADDING]


@pytest.mark.parametrize("value", ["a|b", "", 3, {"a": 1}])
def test_a_list_is_a_list(value: Any) -> None:
    """JSON holds lists as lists; text is not split."""
    with pytest.raises(ValueProblem, match="expected a list"):
        encoder_for(TAGS).candidate.row({"tags": value})


@pytest.mark.parametrize(
    ("value", "position"),
    [([None], 0), (["a", None], 1), (["", "a", 1.5], 2), (["a", {}], 1)],
)
def test_problem_in_a_list_has_its_position(value: Any, position: int) -> None:
    """The position is that in the caller's list."""
    with pytest.raises(ValueProblem) as caught:
        encoder_for(TAGS).candidate.row({"tags": value})
    assert caught.value.position == position


UNKNOWN: Mapping[str, Sequence[Any]] = {
    "integer": [1, -5, 2**64 - 1, -(2**63), 2, None, 7],
    "string": ["1", "unknown", "", "TRUE", None, "2 "],
    "boolean": ["TRUE", "true", "false", True, None],
}


@pytest.mark.parametrize("dtype", UNKNOWN)
@pytest.mark.parametrize(
    "keys", [{}, {"null_values": ["7", "unknown"]}, {"empty_is_missing": False}]
)
def test_unknown_values_of_a_column_are_those_of_rows(dtype: Any, keys: Any) -> None:
    """Many unknown values at once: known, null and empty ones beside them stay what they are."""
    if dtype != "string":
        keys = {name: value for name, value in keys.items() if name == "null_values"}
    if dtype == "boolean":
        keys = {}
    field = user(dtype=dtype, **keys)
    known = [True, None] if dtype == "boolean" else [1, None]
    encoder = encoder_for(field, frame={"user": known if dtype != "string" else ["1", None]})
    given = UNKNOWN[dtype]
    side = side_of(encoder, field)
    assert encoded_columns(side, {"user": given}, len(given)).tolist() == [
        encoded_row(side, {"user": value}) for value in given
    ]


@pytest.mark.parametrize("wrong", [2**64, -(2**63) - 1, 1.5, True])
def test_unknown_values_do_not_hide_a_wrong_one(wrong: Any) -> None:
    """A number out of range among unknown ones has its row and its problem."""
    field = user(dtype="integer")
    with pytest.raises(FieldProblems) as caught:
        encoded_columns(side_of(encoder_for(field), field), {"user": [4, 5, wrong]}, 3)
    assert [row for row, _ in caught.value.fields["user"].problems] == [2]


@pytest.mark.parametrize("name", FIELDS)
def test_required_values_must_be_there(name: str) -> None:
    """The absence of a required value is a problem: absent, null, or (of text) empty."""
    field = msgspec.structs.replace(FIELDS[name], required=True)
    side = side_of(encoder_for(field), field)
    absent = [None, ""] if isinstance(field, Categorical | Time) else [None]
    for value in absent:
        with pytest.raises(ValueProblem, match="required"):
            side.row({field.name: value})
        with pytest.raises(FieldProblems, match="required"):
            encoded_columns(side, {field.name: [value]}, 1)
    for nothing in ({}, {"other": 1}):
        with pytest.raises(ValueProblem, match="required"):
            side.row(nothing)
        with pytest.raises(FieldProblems, match="required"):
            encoded_columns(side, nothing, 1)


@pytest.mark.parametrize(
    ("value", "scaled"),
    [(3.0, 1.0), (1, -1.0), (2, 0.0), (4.5, 2.5), (11.5, 9.5), (12.5, 10.0), (1e30, 10.0),
     (-1e38, -10.0)],
)  # fmt: skip
def test_scaled_numbers_are_deviations_within_a_bound(value: float, scaled: float) -> None:
    """Of 1 and 3 the mean is 2 and the deviation 1; beyond ten deviations all count as ten."""
    side = encoder_for(SCALED, frame={"price": [1, 3, None]}).candidate
    index, bits = encoded_row(side, {"price": value})
    assert (index, numbers([bits])) == (VALUE_ROW, [scaled])
    assert encoded_columns(side, {"price": [value]}, 1).tolist() == [[index, bits]]


def test_a_missing_scaled_number_is_once_a_row_of_its_own() -> None:
    """It is neither zero nor the mean: its row is missing's, and counts once."""
    side = encoder_for(SCALED, frame={"price": [1, 3]}).candidate
    index, bits = encoded_row(side, {})
    assert (index, numbers([bits])) == (MISSING_ROW, [1.0])
    assert encoded_columns(side, {"price": [None, 3]}, 2)[0].tolist() == [index, bits]
    assert encoded_columns(side, {}, 2).tolist() == [[index, bits]] * 2


def test_scaled_numbers_are_float32_first() -> None:
    """Two numbers of one float32 are one feature."""
    side = encoder_for(SCALED, frame={"price": [0.0, 0.3]}).candidate
    assert side.row({"price": 0.1}) == side.row({"price": float(np.float32(0.1))})


@pytest.mark.parametrize("value", [0.0, -0.0, -1e-46, 0, 1e-46])
def test_a_scaled_zero_has_no_sign(value: float) -> None:
    """A number that is zero as a float32 has one form, alone and in a column."""
    side = encoder_for(SCALED, frame={"price": [-1.0, 1.0]}).candidate
    row = encoded_row(side, {"price": value})
    assert row == encoded_row(side, {"price": 0})
    assert encoded_columns(side, {"price": [value]}, 1).tolist() == [list(row)]
