"""Moments that are hardly meant: before 1995, in the future, or dates that were read as seconds."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from app.errors import ValueProblem
from app.features.canonical import seconds
from app.features.spec import Time

EARLIEST = int(datetime(1995, 1, 1, tzinfo=UTC).timestamp())
"""The year in which advertisements on web sites and their click logs began to be usual."""
_DAY = 86_400
LOOKED_AT = 1_000
"""Distinct values of a frame that are looked at, evenly over it."""
_ENOUGH = 20
"""Values that must all read as dates before plausible seconds are doubted."""
_EARLY, _LATE = "before 1995", "in the future"
_DATES = {
    6: ("%y%m%d", "%Y%m"),
    8: ("%Y%m%d", "%y%m%d%H"),
    10: ("%Y%m%d%H", "%y%m%d%H%M"),
    12: ("%Y%m%d%H%M", "%y%m%d%H%M%S"),
    14: ("%Y%m%d%H%M%S",),
}
"""Formats of dates and hours that are digits alone, by their number of digits."""


def date_formats(value: Any) -> frozenset[str]:
    """Return the formats by which digits are a date of the years since 1995."""
    text = str(value) if isinstance(value, int) else value
    if not isinstance(text, str) or not (text.isascii() and text.isdigit()):
        return frozenset()
    return frozenset(each for each in _DATES.get(len(text), ()) if _is_date(text, each))


def _is_date(text: str, text_format: str) -> bool:
    try:
        moment = datetime.strptime(text, text_format)
    except ValueError:
        return False
    # strptime takes single digits, too: what is written back must be the same.
    if moment.strftime(text_format) != text:
        return False
    return EARLIEST <= moment.replace(tzinfo=UTC).timestamp() <= time.time() + 366 * _DAY


def date_hint(key: str, formats: Collection[str]) -> str:
    """Return what to write into the spec if digits are dates of one of these formats."""
    best = best_date_format(formats)
    return f'; if these are dates, give `{key} = "{best}"`' if best else ""


def best_date_format(formats: Collection[str]) -> str | None:
    """Return the likeliest of formats: four digits for the year are the usual way."""
    return next((each for each in chain(*_DATES.values()) if each in formats), None)


class DoubtfulMoments:
    """Counts the doubtful values of one column of times.

    ``key`` is the key of the spec that gives the column's format.
    """

    def __init__(self, column: Time, key: str) -> None:
        self._column, self._key = column, key
        self._zone = ZoneInfo(column.timezone)
        self._looked_at = 0
        self._counts = {_EARLY: 0, _LATE: 0}
        self._first: dict[str, str] = {}
        """The first value of each kind, and what it is read as."""
        self._formats: frozenset[str] | None = None
        """Formats by which all values are dates; None before the first value."""

    def add(self, values: Sequence[Any]) -> None:
        """Look at distinct values as JSON holds them."""
        now = time.time()
        for value in values[:: max(1, len(values) // LOOKED_AT)]:
            if value is None or value == "":
                continue
            try:
                second = seconds(value, self._zone, self._column.format)
            except ValueProblem:
                continue
            self._looked_at += 1
            if second < EARLIEST or second > now + _DAY:
                self._count(_EARLY if second < EARLIEST else _LATE, value, second)
            if self._column.format is None and (self._formats or self._formats is None):
                found = date_formats(value)
                self._formats = found if self._formats is None else self._formats & found

    def _count(self, where: str, value: Any, second: int) -> None:
        self._counts[where] += 1
        moment = datetime.fromtimestamp(second, UTC)
        self._first.setdefault(where, f"{value!r} is read as {moment:%Y-%m-%d %H:%M:%S} UTC")

    def state(self) -> dict[str, Any]:
        """Return what was counted, in a form that JSON can hold."""
        return {
            "column": msgspec.to_builtins(self._column),
            "key": self._key,
            "looked_at": self._looked_at,
            "counts": self._counts,
            "first": self._first,
            "formats": None if self._formats is None else sorted(self._formats),
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> DoubtfulMoments:
        """Begin with the column of a :meth:`state`, and nothing counted."""
        return cls(msgspec.convert(state["column"], Time), state["key"])

    def merge(self, later: Mapping[str, Any]) -> None:
        """Add the :meth:`state` of later rows."""
        self._looked_at += later["looked_at"]
        for where, count in later["counts"].items():
            self._counts[where] += count
        for where, first in later["first"].items():
            self._first.setdefault(where, first)
        if later["formats"] is not None:
            found = frozenset(later["formats"])
            self._formats = found if self._formats is None else self._formats & found

    def lines(self) -> Iterator[str]:
        """Yield a warning for moments before 1995, in the future, or that read as dates."""
        name = self._column.name
        hint = date_hint(self._key, self._formats or ())
        for where, first in self._first.items():
            yield (
                f"field {name!r}: {self._counts[where]:,} of {self._looked_at:,} values looked at"
                f" lie {where}: {first}{hint}"
            )
        if hint and not self._first and self._looked_at >= _ENOUGH:
            yield f"field {name!r}: all values looked at read as dates, and as seconds{hint}"
