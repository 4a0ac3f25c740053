"""Tensors become the values that JSON would hold."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ServiceError
from app.web.v2.tensors import (
    WORTHWHILE,
    binary_size,
    check_shape,
    column,
    short_texts,
    texts_one_by_one,
)
from app.web.v2.wire import NUMBERS, Tensor
from tests.support.tensors import texts


def values(
    raw: bytes, datatype: Any, *shape: int, listed: bool = False, **parameters: Any
) -> list[Any]:
    """A column out of bytes behind a head."""
    tensor = Tensor("x", [*shape], datatype, {"binary_data_size": len(raw), **parameters})
    assert binary_size(tensor) == len(raw)
    assert check_shape(tensor, listed, 10_000) == shape[0]
    return list(column(tensor, listed, b"", memoryview(raw), 100))


@pytest.mark.parametrize("datatype", NUMBERS)
def test_every_number_type(datatype: str) -> None:
    """Little-endian values of each size are read exactly."""
    dtype = np.dtype(NUMBERS[datatype])
    given = np.array([0, 1, 1, 0], dtype)
    assert values(given.tobytes(), datatype, 4) == given.tolist()
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        ends = np.array([limits.min, limits.max], dtype)
        assert values(ends.tobytes(), datatype, 2, 1) == [limits.min, limits.max]


@given(st.lists(st.text(max_size=20), max_size=20))
def test_texts_come_back(given: list[str]) -> None:
    """Any text, the empty one and those with separators too."""
    assert values(texts(given), "BYTES", len(given)) == given


SHORT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=60)


@given(st.lists(SHORT, min_size=1, max_size=30))
def test_short_texts_are_found_by_passes_over_their_bytes(given: list[str]) -> None:
    """Texts of any script; none of the usual ones is read by itself."""
    assert short_texts(texts(given), len(given)) == given


@pytest.mark.parametrize("count", [WORTHWHILE - 1, WORTHWHILE])
def test_many_values_are_what_few_are(count: int) -> None:
    """Texts and integers, read in either way, and texts that are none."""
    words = [f"w\u00e9{number}" for number in range(count)]
    assert values(texts(words), "BYTES", count) == words
    assert values(np.arange(count, dtype="<u2").tobytes(), "UINT16", count) == [*range(count)]
    with pytest.raises(ServiceError, match="a text is not UTF-8"):
        values(texts(words).replace(b"\xc3", b"\xff"), "BYTES", count)
    with pytest.raises(ServiceError, match="1 bytes are left behind its last text"):
        values(texts(words) + b"x", "BYTES", count)


def test_texts_that_passes_leave_alone() -> None:
    """Empty, long and null ones are read one by one, and mean what they say."""
    tensor = Tensor("x", [2], "BYTES")
    for each in (["a", ""], ["b" * 256, "a"], ["c\0d", "e"], ["\0\0\0"], [""], []):
        assert short_texts(texts(each), len(each)) is None
        assert slow(tensor, texts(each), len(each)) == each
    most = ["x" * 255, "\u00e9" * 127, "y"]
    assert short_texts(texts(most), 3) == most


@given(st.lists(SHORT, min_size=1, max_size=5), st.data())
def test_passes_find_no_texts_that_are_not_there(given: list[str], data: st.DataObject) -> None:
    """Whatever bytes are changed, added or cut: the texts are those of one look after the other."""
    raw = bytearray(texts(given))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.sampled_from([0, 1, 2, 65, 128, 255, len(raw) - at & 255]))
    content = bytes(raw[: len(raw) - data.draw(st.integers(0, 2))])
    count = len(given) + data.draw(st.integers(-1, 1))
    tensor = Tensor("x", [count], "BYTES")
    told: list[Any] = []
    for read in (short_texts, partial(slow, tensor)):
        try:
            told.append(read(content, count))
        except UnicodeDecodeError:
            told.append("a text is not UTF-8")
        except ServiceError as error:
            told.append(str(error).removeprefix("inputs.x: "))
    assert told[0] is None or told[0] == told[1]


def slow(tensor: Tensor, content: bytes, count: int) -> list[str]:
    """The texts one by one."""
    return texts_one_by_one(tensor, memoryview(content), count)


@pytest.mark.parametrize(
    ("dtype", "datatype", "given", "missing", "wanted"),
    [
        ("<i8", "INT64", [1, -1, 2], -1, [1, None, 2]),
        ("<f4", "FP32", [0.1, 0.5], 0.1, [None, 0.5]),
        ("<f4", "FP32", [float("nan"), 0.5], "NaN", [None, 0.5]),
        ("<f8", "FP64", [-1.0, 0.5], -1, [None, 0.5]),
        ("?", "BOOL", [True, False], True, [None, False]),
    ],
)
def test_a_value_stands_for_missing(
    dtype: str, datatype: str, given: list[Any], missing: Any, wanted: list[Any]
) -> None:
    """In the datatype's own precision; NaN by its name."""
    raw = np.array(given, dtype).tobytes()
    assert values(raw, datatype, len(given), missing=missing) == wanted


def test_lists_lose_their_padding() -> None:
    """Empty text pads by default, numbers need a name for it; a first missing value is a row's."""
    raw = texts(["a", "b", "c", "", "", "", "-", ""])
    assert values(raw, "BYTES", 4, 2, listed=True, missing="-") == [["a", "b"], ["c"], [], None]
    numbers = np.array([[1, 2], [3, 0]], "<i8").tobytes()
    assert values(numbers, "INT64", 2, 2, listed=True) == [[1, 2], [3, 0]]
    assert values(numbers, "INT64", 2, 2, listed=True, padding=0) == [[1, 2], [3]]
    assert values(numbers[:16], "INT64", 2, listed=True) == [[1], [2]]


def test_json_of_any_integer_is_exact() -> None:
    """2^64 - 1 goes through no float."""
    data = msgspec.Raw(b"[18446744073709551615]")
    tensor = Tensor("x", [1], "UINT64", {}, data)
    assert column(tensor, False, bytes(data), None, 100) == [2**64 - 1]


@given(
    st.sampled_from([*NUMBERS, "BYTES"]), st.binary(max_size=64), st.integers(0, 9),
    st.integers(0, 3), st.booleans(),
)  # fmt: skip
def test_bytes_are_read_or_refused(
    datatype: str, raw: bytes, rows: int, width: int, listed: bool
) -> None:
    """Nothing but a refusal comes out of sizes that do not agree."""
    refused, found = 0, []
    try:
        found = values(raw, datatype, rows, width, listed=listed)
    except ServiceError as error:
        refused = error.status
    assert refused in (400, 422) or len(found) == (rows if listed else rows * width)
