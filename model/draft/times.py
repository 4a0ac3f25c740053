"""Values → the format by which all of them are moments, if there is one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.data.doubtful_moments import EARLIEST, best_date_format, date_formats
from model.draft.column import Column, moments
from model.draft.names import is_moment

LOOKED_AT = 1_000
"""Distinct values that decide whether a column is tried as a time."""
FEW = 20
"""Whole numbers that are fewer are a time only if the column's name says so."""
FORMATS = (
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%d/%b/%Y:%H:%M:%S %z",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%m/%d/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %I:%M %p",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%a, %d %b %Y %H:%M:%S %z",
    "%Y-%m-%d-%H",
    "%Y-%m-%d_%H:%M:%S",
)
"""Other ways of writing a moment; where day and month leave a doubt, the month comes first."""
MILLISECONDS = (EARLIEST * 1000, 4_102_444_800_000)
_DAY = 86_400


class Moments(NamedTuple):
    """A column of moments: its format (None: seconds, or ISO 8601) and the seconds [V]."""

    format: str | None
    seconds: NDArray[np.int64]
    """Of each distinct value; the smallest number where it is missing."""
    present: NDArray[np.bool_]


def as_moments(column: Column, integers: bool, nulls: frozenset[str]) -> Moments | None:
    """Return the moments of a column, None if it is of something else."""
    values = column.without(nulls)
    if column.moment:
        found = moments(values, None)
        return None if found is None else _placed(column, nulls, None, found)
    few = values[:: max(1, len(values) // LOOKED_AT)]
    for each in _formats(column.name, few, integers):
        if moments(few, each) is None:
            continue
        found = moments(values, each)
        if found is not None and not _is_sane(found):
            continue
        if found is not None:
            return _placed(column, nulls, each, found)
    return None


def are_milliseconds(column: Column) -> bool:
    """Tell whether whole numbers read as milliseconds since 1970."""
    numbers = column.numbers()[column.present]
    low, high = MILLISECONDS
    named = is_moment(column.name) or len(numbers) >= FEW
    return bool(named and len(numbers) and numbers.min() >= low and numbers.max() < high)


def _formats(name: str, values: Sequence[Any], integers: bool) -> list[str | None]:
    """Return the formats worth trying, the likeliest first."""
    named = is_moment(name)
    if not integers:
        texts = all(isinstance(value, str) for value in values)
        # Digits with zeros before them, "00" to "23", are no seconds.
        dated = texts and any(not value.isdigit() for value in values)
        return [None, *FORMATS] if dated else []
    common = frozenset.intersection(*map(date_formats, values)) if values else frozenset()
    if common and (named or len(values) >= FEW):
        return [best_date_format(common)]
    whole = [float(value) for value in values]
    in_range = min(whole) >= EARLIEST and max(whole) <= time.time() + _DAY
    return [None] if in_range and named else []


def _is_sane(found: NDArray[np.int64]) -> bool:
    return bool(found.min() >= EARLIEST and found.max() <= time.time() + 366 * _DAY)


def _placed(
    column: Column, nulls: frozenset[str], text_format: str | None, found: NDArray[np.int64]
) -> Moments:
    places = [place for place in column.present if column.values[place] not in nulls]
    second = np.full(len(column.values), np.iinfo(np.int64).min)
    second[places] = found
    present = np.zeros(len(column.values), bool)
    present[places] = True
    return Moments(text_format, second, present)
