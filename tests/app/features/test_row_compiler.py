"""The generated function encodes a row as the field encoders do, whatever names and values are."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import msgspec
import numpy as np
import pytest

from app.errors import ValueProblem
from app.features import row_compiler
from app.features.column_encoding import Misses
from app.features.encoder import SideEncoder
from app.features.number_encoders import LogSquaredEncoder
from app.features.spec import Field, MultiCategorical
from tests.support.encoding import FIELDS, OOV_ROW, USER, encoded_row, encoder_for, side_of

VALUES = [
    None, "", "a", "1", "1.0", "one", 1, 0, -1, 1.0, 0.5, -0.0, 2**53, 2**64, 10**400, 3.5e38,
    float("nan"), float("inf"), True, False, [], ["a"], ["1", None], [True], {}, "2024-05-05", (1,),
]  # fmt: skip
NAMES = ["v", "x0", "get", "row", "pack", "misses", "known0", 'quo"ted', "a\nb", "(); raise", "é"]


def learned_side(field: Field) -> SideEncoder:
    """The encoder of a field that learned 1 (and "1")."""
    frame = {field.name: [["1"]] if isinstance(field, MultiCategorical) else [1]}
    return side_of(encoder_for(field, frame=frame), field)


def outcome(side: SideEncoder, field: Field, value: Any) -> list[int] | str:
    """The words of a row of one value, or the problem with it."""
    try:
        return encoded_row(side, {field.name: value})
    except ValueProblem as problem:
        return str(problem)


@pytest.mark.parametrize("required", [False, True], ids=["optional", "required"])
@pytest.mark.parametrize("name", FIELDS)
def test_a_row_has_the_words_of_its_field_encoder(name: str, required: bool) -> None:
    """Every kind of value gives the same words or the same problem, seen before or not."""
    field = msgspec.structs.replace(FIELDS[name], required=required)
    side = learned_side(field)
    [encoder] = side.encoders
    for value in VALUES * 2:
        try:
            expected: list[int] | str = list(encoder.one(value))
        except ValueProblem as problem:
            expected = str(problem)
        assert outcome(side, field, value) == expected, value


@pytest.mark.parametrize("name", NAMES)
def test_names_of_fields_are_data(name: str) -> None:
    """A field may be called like a variable of the function, or like code."""
    field = msgspec.structs.replace(USER, name=name)
    side = side_of(encoder_for(field, frame={name: ["a"]}), field)
    assert encoded_row(side, {name: "a"}) == [OOV_ROW + 1]
    assert encoded_row(side, {name: "b"}) == [OOV_ROW]


def test_an_unknown_value_is_a_miss_where_misses_are_asked_for() -> None:
    """The complement of the miss's place stands in the row; without misses it is OOV."""
    side = encoder_for(USER, frame={"user": ["a"]}).context
    misses: Misses = {}
    rows = [side.row({"user": value}, misses) for value in ("b", "a", "c", "b")]
    words = [np.frombuffer(row, np.int32).tolist() for row in rows]
    assert words == [[~0], [OOV_ROW + 1], [~1], [~0]]
    assert misses == {("user", "b"): 0, ("user", "c"): 1}
    assert encoded_row(side, {"user": "b"}) == [OOV_ROW]


def test_bool_stays_refused_after_its_number_was_seen() -> None:
    """A cache of numbers does not answer for ``true``, which equals 1 to a dict."""
    side = encoder_for(FIELDS["log_squared"], frame={"price": [1, 0]}).candidate
    for value in (1, 0, 1.0, 0.0):
        side.row({"price": value})
    for value in (True, False):
        with pytest.raises(ValueProblem, match="boolean"):
            side.row({"price": value})


def test_remembered_numbers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers who send ever new numbers do not fill the memory; their rows stay right."""
    monkeypatch.setattr(row_compiler, "_MEMO_LIMIT", 3)
    side = encoder_for(FIELDS["log_squared"], frame={"price": [1, 5, 9]}).candidate
    [encoder] = side.encoders
    assert isinstance(encoder, LogSquaredEncoder)
    for value in range(10):
        assert encoded_row(side, {"price": value}) == list(encoder.one(value))
    assert len(encoder.memo) == 3


@pytest.mark.parametrize("name", FIELDS)
def test_tables_end_with_their_encoder(name: str) -> None:
    """A replaced bundle's tables are freed at once, not at the next run of the collector."""
    encoder = encoder_for(FIELDS[name])
    table = weakref.ref(side_of(encoder, FIELDS[name]).encoders[0])
    gc.disable()
    try:
        del encoder
        assert table() is None
    finally:
        gc.enable()
