"""Columns of a table for logged values, each of a type that holds all that was sent of a field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from app.features.keys import plain_key

INT64 = range(-(2**63), 2**63)
EXACT = 2**53
"""Integers up to here are numbers with a fraction too, without loss."""


class ColumnKinds:
    """The types that a field's values had, whether alone or in a list.

    An integer and its text are the same value of a categorical field, as are 7 and 7.0: where
    both occur, the column holds text, or numbers.
    """

    def __init__(self) -> None:
        self._scalars: dict[str, set[str]] = {}
        self._members: dict[str, set[str]] = {}

    def see(self, values: Mapping[str, Any]) -> None:
        """Note the types of a row."""
        for name, value in values.items():
            if isinstance(value, list):
                members = self._members.setdefault(name, set())
                members.update(map(_kind, value))
            elif value is not None:
                self._scalars.setdefault(name, set()).add(_kind(value))
            else:
                self._scalars.setdefault(name, set())

    @property
    def unusable(self) -> list[str]:
        """The fields that no column can hold: of objects, or of lists and other values."""
        return sorted(
            name
            for name in self._scalars.keys() | self._members.keys()
            if "object" in self._scalars.get(name, set()) | self._members.get(name, set())
            or (self._scalars.get(name) and name in self._members)
        )

    def schema(self) -> dict[str, pl.DataType]:
        """Return the type of each column that can be."""
        unusable = set(self.unusable)
        found: dict[str, pl.DataType] = {}
        for name in sorted(self._scalars.keys() | self._members.keys()):
            if name in unusable:
                continue
            if name in self._members:
                found[name] = pl.List(_type(self._members[name]))
            else:
                found[name] = _type(self._scalars[name])
        return found


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        if abs(value) <= EXACT:
            return "integer"
        return "long integer" if value in INT64 else "integer beyond 64 bits"
    if isinstance(value, float):
        return "number"
    return "text" if isinstance(value, str) else "object"


def _type(kinds: set[str]) -> pl.DataType:
    if kinds <= {"integer", "long integer"}:
        return pl.Int64() if kinds else pl.String()
    if kinds <= {"integer", "number"}:
        return pl.Float64()
    if kinds == {"boolean"}:
        return pl.Boolean()
    return pl.String()


def column(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    """Return values as a column of a type that :class:`ColumnKinds` has given."""
    if dtype == pl.String():
        values = [_text(value) for value in values]
    elif dtype == pl.List(pl.String()):
        values = [value and [_text(each) for each in value] for value in values]
    elif dtype == pl.Float64():
        values = [value if value is None else float(value) for value in values]
    elif dtype == pl.List(pl.Float64()):
        values = [value and [float(each) for each in value] for value in values]
    return pl.Series(name, values, dtype)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return plain_key(value) if isinstance(value, int) else repr(value)
