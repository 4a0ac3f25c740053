"""Counts of what the spec makes no use of in items and profiles that are put into a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from app.features.encoder import SideEncoder
from app.features.nearest import suggestion

MOST_NAMES = 1_000
"""Names that are counted: values can have a name for each entry."""
SHOWN_NAMES = 5


class FieldCounts:
    """Lines that have values of dynamic fields, and of fields that the spec does not have."""

    def __init__(self, side: SideEncoder, id_field: str | None = None) -> None:
        self._side = side
        self._known = side.fields | ({id_field} if id_field is not None else set())
        self._used: set[str] = set()
        self._dynamic: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()

    def add(self, values: Mapping[str, Any]) -> None:
        """Count the values of a line."""
        names = values.keys()
        self._used |= names & self._side.fields
        self._dynamic.update(names & self._side.dynamic)
        for name in names - self._known:
            if name in self._unknown or len(self._unknown) < MOST_NAMES:
                self._unknown[name] += 1

    def lines(self) -> Iterator[str]:
        """Yield what a person should know of them."""
        for name, count in sorted(self._dynamic.items()):
            yield (
                f"{count:,} lines have a value of {name!r}, which is not used: the field is dynamic"
            )
        if not self._unknown:
            return
        # One that is written wrong is absent under its own name.
        absent = self._side.fields - self._used
        shown = ", ".join(
            f"{name!r} ({count:,} lines{suggestion(name, absent)})"
            for name, count in self._unknown.most_common(SHOWN_NAMES)
        )
        more = len(self._unknown) - SHOWN_NAMES
        yield (
            "fields that the spec does not have are kept, and no score depends on them:"
            f" {shown}{f' and {more:,} more' if more > 0 else ''}"
        )
