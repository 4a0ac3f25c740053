"""JSON lines: each line is an object as a request has it.

A value lies in a frame as its JSON text, in a column of bytes: one column may hold numbers, text,
lists and nulls. No other kind of file gives columns of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import polars as pl

Columns = dict[str, list[bytes | None]]
"""Values as JSON, by the name of their column."""
_ENTRY = {"id", "features"}
_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode = msgspec.json.Decoder(Any).decode
_encode = msgspec.json.Encoder().encode


class UnreadableLine(Exception):
    """A line that is no object of JSON."""


def read_object(line: bytes, key: str | None = None) -> dict[str, Any]:
    """Return the values of a line by name.

    With ``key`` a line may also be ``{"id": …, "features": {…}}``, as stores export their entries;
    then the id is the value of ``key``.

    Raises:
        UnreadableLine: it is no JSON object.
    """
    try:
        values = _object(line)
        if key is not None and values.keys() == _ENTRY and isinstance(values["features"], dict):
            return {**values["features"], key: values["id"]}
        return values
    except UnicodeDecodeError:
        raise UnreadableLine("not UTF-8") from None
    except RecursionError:
        raise UnreadableLine("nested too deeply") from None
    except msgspec.ValidationError as error:
        raise UnreadableLine(str(error).partition(" - at ")[0]) from None
    except msgspec.DecodeError as error:
        raise UnreadableLine(
            f"not JSON: {str(error).removeprefix('JSON is malformed: ')}"
        ) from None


def as_bytes(values: Mapping[str, Any], name: str) -> bytes | None:
    """Return what a frame holds for a value: None where it is absent, and ``null`` for a null."""
    return _encode(values[name]) if name in values else None


def values_of(column: Iterable[bytes | None]) -> list[Any]:
    """Return the values that a frame's column of bytes stands for."""
    return [None if text is None else _decode(text) for text in column]


def is_json(column: pl.Series) -> bool:
    """Tell whether a column holds JSON texts."""
    return column.dtype == pl.Binary


def as_text(name: str, column: Sequence[bytes | None]) -> pl.Series:
    """Return a column as text files have it: text as it is, other values as their JSON."""
    texts = [
        None if each in (None, b"null") else _decode(each) if each[:1] == b'"' else each.decode()
        for each in column
    ]
    return pl.Series(name, texts, pl.String)
