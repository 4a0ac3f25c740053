"""The footer of a Parquet file: its physical types, which say more than the columns' types.

The form is the compact protocol of Apache Thrift; only the list of schema elements is read, which
stands near the footer's beginning (https://github.com/apache/parquet-format).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MAGIC = b"PAR1"
_INT96 = 3
_TIMESTAMPS = 9, 10
"""The converted types TIMESTAMP_MILLIS and TIMESTAMP_MICROS."""
_SCHEMA = 2
"""The field of the footer with the schema; that of an element are below."""
_TYPE, _NAME, _CHILDREN, _CONVERTED, _LOGICAL = 1, 4, 5, 6, 10


def int96_columns(path: Path) -> set[str]:
    """Return the columns that hold INT96 timestamps, in lists too."""
    elements, _ = _read(path)
    return {name for name, leaf in _leaves(elements) if leaf.get(_TYPE) == _INT96}


def instant_columns(path: Path) -> set[str]:
    """Return the columns whose times are instants although their type names no time zone.

    Those are timestamps of INT96 (Spark, Hive), unless Impala has written them, which stores
    local times so; and timestamps of the older form, without a logical type, which the format
    defines as instants.
    """
    elements, footer = _read(path)
    # The program's name stands in the footer's last field, behind all row groups.
    local = b"impala version" in footer
    return {
        name
        for name, leaf in _leaves(elements)
        if (leaf.get(_TYPE) == _INT96 and not local)
        or (leaf.get(_CONVERTED) in _TIMESTAMPS and _LOGICAL not in leaf)
    }


def _read(path: Path) -> tuple[list[dict[int, Any]], bytes]:
    """Return the schema's elements, and the footer."""
    with path.open("rb") as file:
        file.seek(-8, 2)
        end = file.read(8)
        size = int.from_bytes(end[:4], "little")
        if end[4:] != _MAGIC:
            return [], b""
        file.seek(-8 - size, 2)
        footer = file.read(size)
    return _Thrift(footer).until(_SCHEMA), footer


def _leaves(elements: list[dict[int, Any]]) -> Iterator[tuple[str, dict[int, Any]]]:
    """Yield each element that has values, with the name of the column that it belongs to."""
    open_groups: list[int] = []
    """Children still to come of the root, of a column, of a group inside of it, ..."""
    column = ""
    for element in elements:
        if len(open_groups) == 1:
            column = element[_NAME].decode()
        children = element.get(_CHILDREN, 0)
        if open_groups:
            open_groups[-1] -= 1
        if children:
            open_groups.append(children)
        elif open_groups:
            yield column, element
        while len(open_groups) > 1 and not open_groups[-1]:
            open_groups.pop()


class _Thrift:
    """Reads values of the compact protocol, one after the other."""

    def __init__(self, content: bytes) -> None:
        self._content, self._place = content, 0

    def until(self, wanted: int) -> Any:
        """Read a struct as far as one field, and return its value."""
        for field, value in self._fields():
            if field == wanted:
                return value
        return []

    def _fields(self) -> Iterator[tuple[int, Any]]:
        field = 0
        while header := self._byte():
            step, kind = header >> 4, header & 15
            field = field + step if step else self._signed()
            # A boolean's value is its type.
            yield field, kind == 1 if kind in (1, 2) else self._value(kind)

    def _value(self, kind: int) -> Any:
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            return self._take(8)
        if kind == 8:
            return self._take(self._varint())
        if kind in (9, 10):
            header = self._byte()
            size = header >> 4
            size = self._varint() if size == 15 else size
            return [self._value(header & 15) for _ in range(size)]
        if kind == 12:
            return dict(self._fields())
        raise ValueError(f"type {kind} is not part of a Parquet schema")

    def _byte(self) -> int:
        self._place += 1
        return self._content[self._place - 1]

    def _take(self, size: int) -> bytes:
        self._place += size
        return self._content[self._place - size : self._place]

    def _varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
