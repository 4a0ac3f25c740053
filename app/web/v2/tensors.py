"""An input of the Open Inference Protocol → a column of values, as JSON would hold them.

The binary extension puts an input's values behind the head: numbers in little-endian order, texts
each after its length in four bytes. Whatever a head says of sizes is checked before it is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from struct import Struct
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.errors import Detail, Invalid, ServiceError, TooLarge, Undecodable
from app.features.arrays import Column
from app.scoring.decoding import MAX_VALUES, column_decoder, decode_part
from app.web.v2.wire import NUMBERS, Tensor

SIZE = "binary_data_size"
_LENGTH = Struct("<I")
WORTHWHILE = 32
"""Values from which on a pass of numpy over all of them costs less than one after the other."""
_HIGH_BYTES = 3
"""Bytes of a length that are zero where a text is short."""
_TYPES: dict[str, tuple[type, ...]] = {"BOOL": (bool,), "BYTES": (str,)}
_FLOATS, _INTEGERS = (float, int), (int,)


class Problems:
    """The errors of one input, by its path."""

    def __init__(self, tensor: Tensor) -> None:
        self.path = f"inputs.{tensor.name[:64]}"

    def undecodable(self, problem: str) -> Undecodable:
        """The answer to an input whose sizes do not agree."""
        return Undecodable(f"{self.path}: {problem}")

    def invalid(self, problem: str, place: str = "") -> Invalid:
        """The answer to an input of a form that this service does not take."""
        return Invalid("the request has invalid values", [Detail(self.path + place, problem)])


def binary_size(tensor: Tensor) -> int | None:
    """Return the bytes behind the head that an input says it has; None if its data are JSON.

    Raises:
        Undecodable: it says what cannot be.
    """
    size = tensor.parameters.get(SIZE)
    problems = Problems(tensor)
    if size is None:
        if tensor.data is msgspec.UNSET:
            raise problems.undecodable(f"it has neither data nor {SIZE}")
        return None
    if type(size) is not int or size < 0:
        raise problems.undecodable(f"{SIZE} must be a whole number of bytes")
    if tensor.data is not msgspec.UNSET:
        raise problems.undecodable(f"it has both data and {SIZE}")
    return size


def check_shape(tensor: Tensor, is_list: bool, body_bytes: int) -> int:
    """Return the rows of an input.

    Raises:
        Undecodable: a dimension is negative, or there are more values than bytes.
        TooLarge: it has more values than a body may have.
        Invalid: its field has single values, and it has several a row.
    """
    problems = Problems(tensor)
    if min(tensor.shape) < 0:
        raise problems.undecodable("a dimension is negative")
    rows, width = (*tensor.shape, 1)[:2]
    if max(rows, width, rows * width) > body_bytes:
        raise problems.undecodable("its shape has more values than the body has bytes")
    if rows * width > MAX_VALUES:
        raise TooLarge(f"{problems.path} has more than {MAX_VALUES} values")
    if width != 1 and not is_list:
        raise problems.invalid("expected the shape [N] or [N, 1]: the field has single values")
    return rows


def column(
    tensor: Tensor, is_list: bool, body: bytes, raw: memoryview | None, max_text: int
) -> Column:
    """Return the value of each row; None where it is missing.

    ``raw`` are its bytes behind the head, if they are there.

    Raises:
        ServiceError: its sizes do not agree (400), a text is longer than ``max_text`` bytes (413),
            or values are not of its datatype (422).
    """
    rows, width = (*tensor.shape, 1)[:2]
    if raw is None:
        assert tensor.data is not msgspec.UNSET
        values = _from_json(tensor, tensor.data, body, rows, width)
    elif tensor.datatype == "BYTES":
        values = _texts(tensor, raw, rows * width)
    else:
        array = _numbers(tensor, raw, rows * width)
        plain = array.dtype.kind in "iu" and not is_list and "missing" not in tensor.parameters
        if plain and rows >= WORTHWHILE:
            return array
        values = array.tolist()
    if tensor.datatype == "BYTES" and max(map(len, values), default=0) > max_text:
        long = next(place for place, text in enumerate(values) if len(text) > max_text)
        raise _too_long(tensor, long // max(width, 1), max_text)
    missing = _parameter(tensor, "missing")
    if is_list:
        return _rows_of(tensor, values, rows, width, missing)
    if missing is msgspec.UNSET:
        return values
    if missing != missing:
        return [None if value != value else value for value in values]
    if missing not in values:
        return values
    return [None if value == missing else value for value in values]


def _from_json(tensor: Tensor, data: msgspec.Raw, body: bytes, rows: int, width: int) -> list[Any]:
    problems = Problems(tensor)
    values = decode_part(column_decoder, body, data, f"{problems.path}.data")
    if values and type(values[0]) is list:
        if any(type(each) is not list for each in values):
            raise problems.undecodable("data is neither flat nor a list of rows")
        if len(values) != rows or any(len(each) != width for each in values):
            raise problems.undecodable("data has not the shape that it is said to have")
        values = list(chain.from_iterable(values))
    if len(values) != rows * width:
        raise problems.undecodable(f"data has {len(values)} values, not those of its shape")
    allowed = _types(tensor)
    if not {*map(type, values)}.issubset(allowed):
        wrong = next(place for place, each in enumerate(values) if type(each) not in allowed)
        raise problems.invalid(f"not a value of datatype {tensor.datatype}", f"[{wrong // width}]")
    return values


def _types(tensor: Tensor) -> tuple[type, ...]:
    if found := _TYPES.get(tensor.datatype):
        return found
    return _FLOATS if tensor.datatype.startswith("FP") else _INTEGERS


def _numbers(tensor: Tensor, raw: memoryview, count: int) -> NDArray[Any]:
    dtype = np.dtype(NUMBERS[tensor.datatype])
    if len(raw) != count * dtype.itemsize:
        raise Problems(tensor).undecodable(
            f"{SIZE} is {len(raw)}, and its shape has {count * dtype.itemsize} bytes"
        )
    if tensor.datatype == "BOOL":
        # Any byte but 0 is true; numpy takes the bytes as they are.
        dtype = np.dtype("u1")
    array: NDArray[Any] = np.frombuffer(raw, dtype)
    return array != 0 if tensor.datatype == "BOOL" else array


def _texts(tensor: Tensor, raw: memoryview, count: int) -> list[str]:
    """Return so many texts, each of which stands after its length."""
    if count < WORTHWHILE:
        return texts_one_by_one(tensor, raw, count)
    try:
        short = short_texts(bytes(raw), count)
    except UnicodeDecodeError:
        raise Problems(tensor).undecodable("a text is not UTF-8") from None
    return texts_one_by_one(tensor, raw, count) if short is None else short


def short_texts(content: bytes, count: int) -> list[str] | None:
    """Return texts of 1 to 255 bytes without a null character, found by passes over all bytes.

    None if there are others, or if sizes do not agree: one by one they show what is wrong.

    Raises:
        UnicodeDecodeError: a text is not UTF-8.
    """
    letters = np.frombuffer(bytearray(content), np.uint8)
    zeros = np.flatnonzero(letters == 0)
    # The last three bytes of each length, and no others, are zeros.
    if not count or len(zeros) != _HIGH_BYTES * count:
        return None
    ends = zeros[_HIGH_BYTES - 1 :: _HIGH_BYTES] + 1
    heads = ends - _LENGTH.size
    lengths = letters.take(heads, mode="clip")
    follow = np.append(heads[1:], len(letters))
    if heads[0] != 0 or (ends + lengths != follow).any():
        return None
    if (zeros[::_HIGH_BYTES] != heads + 1).any() or not lengths.all():
        return None
    letters[heads] = 0
    _, *texts = letters.tobytes().decode().split("\0" * _LENGTH.size)
    return texts


def texts_one_by_one(tensor: Tensor, raw: memoryview, count: int) -> list[str]:
    """Return so many texts, each of which stands after its length.

    Raises:
        Undecodable: sizes do not agree, or a text is not UTF-8.
    """
    content, problems = bytes(raw), Problems(tensor)
    size, place, values = len(content), 0, []
    unpack = _LENGTH.unpack_from
    if 4 * count > size:
        raise problems.undecodable(f"{SIZE} is {size}, too few bytes for {count} texts")
    try:
        for _ in range(count):
            (length,) = unpack(content, place)
            place += 4
            end = place + length
            if end > size:
                raise problems.undecodable("a text is longer than what is left of its bytes")
            values.append(content[place:end].decode())
            place = end
    except UnicodeDecodeError:
        raise problems.undecodable("a text is not UTF-8") from None
    except Exception as error:
        if isinstance(error, ServiceError):
            raise
        raise problems.undecodable("its bytes end before its last text") from None
    if place != size:
        raise problems.undecodable(f"{size - place} bytes are left behind its last text")
    return values


def _rows_of(
    tensor: Tensor, values: Sequence[Any], rows: int, width: int, missing: Any
) -> list[list[Any] | None]:
    """Return the list of each row, without its padding: empty text, or what the caller names."""
    padding = _parameter(tensor, "padding")
    if padding is msgspec.UNSET and tensor.datatype == "BYTES":
        padding = ""
    found: list[list[Any] | None] = []
    for row in range(rows):
        own = values[row * width : (row + 1) * width]
        if missing is not msgspec.UNSET and len(own) and _same(own[0], missing):
            found.append(None)
        elif padding is msgspec.UNSET:
            found.append(list(own))
        else:
            found.append([value for value in own if not _same(value, padding)])
    return found


def _parameter(tensor: Tensor, name: str) -> Any:
    """Return the value that a parameter names, UNSET without it; ``NaN`` of numbers is text."""
    value = tensor.parameters.get(name, msgspec.UNSET)
    if value is msgspec.UNSET:
        return value
    if tensor.datatype.startswith("FP") and value == "NaN":
        return float("nan")
    if type(value) not in _types(tensor):
        raise Problems(tensor).invalid(
            f"expected a value of datatype {tensor.datatype}", f".parameters.{name}"
        )
    if tensor.datatype in ("FP16", "FP32"):
        with np.errstate(over="ignore"):
            return float(np.dtype(NUMBERS[tensor.datatype]).type(value))
    return value


def _same(value: Any, other: Any) -> bool:
    return bool(value == other or (value != value and other != other))


def _too_long(tensor: Tensor, row: int, most: int) -> TooLarge:
    path = f"{Problems(tensor).path}[{row}]"
    return TooLarge("a row is too large", [Detail(path, f"over {most} bytes")])
