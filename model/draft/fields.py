"""A column of a sample → the field that it should be, or the reason to leave it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.features.canonical import INTEGER_TEXT
from app.features.spec import (
    MAX_LIST_VALUES,
    Categorical,
    Dtype,
    Field,
    MultiCategorical,
    Numeric,
    Side,
    Time,
    TimePart,
)
from model.draft.alone import auc_alone, in_buckets
from model.draft.column import Column
from model.draft.lists import as_list
from model.draft.names import is_amount, is_name
from model.draft.times import Moments, are_milliseconds, as_moments

LEAK = 0.98
"""AUC of a column alone above which it tells the label rather than predicts it."""
UNIQUE = 0.95
"""Distinct values beside rows from which on a text is a row's own."""
FEW_ROWS = 100
"""Rows below which a column of distinct values is no sign."""
SINGLE = 20
"""Rows of a value, on average, from which on even a value that comes once is worth a weight."""
RARE = 3
"""Rows of a value, on average, below which whole numbers are amounts rather than names."""
LIST_VALUES = 16
"""The default of ``max_values``."""
MOST_NAMES = 20
"""Distinct whole numbers up to which they are names, whatever they count."""


@dataclass(frozen=True, slots=True)
class Found:
    """A column, and the field that it should be; ``field`` is None where it is left out."""

    column: Column
    field: Field | None
    codes: NDArray[np.int64]
    """Numbers [R] of the values as AUC and sides see them."""
    auc: float | None
    note: str
    """The reason, in a few words: why it is left out, or what it was taken for."""
    moments: Moments | None = None

    @property
    def nulls(self) -> int:
        """Rows with a text that the field takes for a missing value."""
        texts = self.field.null_values if self.field and self.field.null_values else ()
        return sum(self.column.null_texts.get(text, 0) for text in texts)

    @property
    def missing(self) -> float:
        """The share of rows without a value."""
        return (self.column.missing + self.nulls) / self.column.rows


def find(column: Column, label: NDArray[np.uint8], side: Side = "context") -> Found:
    """Judge a column; its field has the given side until the sides are known."""
    field, codes, note, moments = _field(column, side)
    alone = auc_alone(codes, label)
    if alone is not None and max(alone, 1 - alone) > LEAK and column.rows >= FEW_ROWS:
        field, note = None, f"it tells the label: AUC alone {alone:.3f}"
    return Found(column, field, codes, alone, note, moments)


def _field(column: Column, side: Side) -> tuple[Field | None, Any, str, Moments | None]:
    content, nulls = column.content
    codes = column.codes
    null_values = tuple(sorted(nulls)) or None
    named: dict[str, Any] = {"name": column.name, "side": side, "null_values": null_values}
    if content == "nothing":
        return None, codes, "it has no value", None
    values = column.without(nulls)
    if len(values) == 1 and not (column.missing or nulls):
        return None, codes, "constant", None
    if content == "mixed":
        return None, codes, "its values are of several types, or objects", None
    if content in ("integer", "number", "moment", "text"):
        digits = content in ("integer", "number")
        if (moments := as_moments(column, digits, nulls)) is not None:
            return _time(named, moments, column)
    if content == "integer" and are_milliseconds(column):
        return None, codes, "milliseconds since 1970: a time is read in seconds", None
    if content == "list":
        return *_list(named, column), None
    if content == "text" and column.text_file and (found := as_list(column, nulls)) is not None:
        dtype = _dtype(found.tokens)
        most = _max_values(found.longest)
        least = _min_count(column.rows * found.longest, len(found.tokens))
        fields = MultiCategorical(
            **named, dtype=dtype, min_count=least, separator=found.separator, max_values=most
        )
        return (
            fields,
            codes,
            f"lists of up to {found.longest} of {len(found.tokens):,} values",
            None,
        )
    present = column.rows - column.missing
    numbers = column.numbers(nulls)
    amount = content == "integer" and _is_amount(column, numbers, values)
    unique = len(values) >= UNIQUE * present and present >= FEW_ROWS
    if content == "number" or amount:
        note = "whole numbers that look like amounts" if amount else "a number"
        return Numeric(**named), in_buckets(numbers, codes), note, None
    if unique:
        exactly = "" if len(values) == present else "almost "
        return None, codes, f"{exactly}unique in each row", None
    dtype = content if content in ("integer", "boolean") else "string"
    least = _min_count(present, len(values))
    return Categorical(**named, dtype=dtype, min_count=least), codes, "", None


def _time(
    named: dict[str, Any], moments: Moments, column: Column
) -> tuple[Field | None, Any, str, Moments | None]:
    second = moments.seconds[moments.present]
    hours, days = np.unique(second // 3600 % 24), np.unique(second // 86_400)
    parts: list[TimePart] = ["hour"] if len(hours) > 1 else []
    parts += ["weekday"] if len(days) > 1 else []
    # One bucket for each hour of the sample: whole moments hardly come twice.
    codes = np.where(moments.present, moments.seconds // 3600, -1)
    _, codes = np.unique(codes, return_inverse=True)
    codes = codes.astype(np.int64)[column.codes]
    if not parts:
        return None, codes, "a time, always of one hour of one day", moments
    note = "a time" if moments.format is None else f"a time, written {moments.format}"
    return Time(**named, parts=tuple(parts), format=moments.format), codes, note, moments


def _list(named: dict[str, Any], column: Column) -> tuple[Field | None, Any, str]:
    lists: list[list[Any]] = [column.values[place] for place in column.present]
    tokens = {token for each in lists for token in each if isinstance(token, str | int | float)}
    if any(isinstance(token, list | dict) for each in lists for token in each):
        return None, column.codes, "lists of lists, or of objects"
    longest = max(map(len, lists), default=1)
    kinds = {type(token) for token in tokens}
    if kinds == {bool}:
        dtype: Dtype = "boolean"
    elif kinds <= {int, str}:
        dtype = _dtype([str(token) for token in tokens])
    else:
        return None, column.codes, "lists of numbers with a fraction, or of several types"
    least = _min_count(column.rows, len(tokens))
    field = MultiCategorical(**named, dtype=dtype, min_count=least, max_values=_max_values(longest))
    return field, column.codes, f"lists of up to {longest} of {len(tokens):,} values"


def _dtype(tokens: Sequence[str]) -> Dtype:
    whole = all(INTEGER_TEXT.fullmatch(token) for token in tokens)
    return "integer" if tokens and whole else "string"


def _max_values(longest: int) -> int:
    return min(MAX_LIST_VALUES, max(LIST_VALUES, longest))


def _min_count(rows: int, distinct: int) -> int:
    """Return the count from which on a value gets a weight of its own."""
    each = rows / max(1, distinct)
    return 1 if each >= SINGLE else 2


def _is_amount(column: Column, numbers: NDArray[np.float64], values: Sequence[Any]) -> bool:
    """Tell whether whole numbers are amounts: their order means something."""
    if len(values) <= MOST_NAMES or is_name(column.name):
        return False
    if is_amount(column.name):
        return True
    known = numbers[~np.isnan(numbers)]
    low, high = known.min(), known.max()
    row = numbers[column.codes]
    row = row[~np.isnan(row)]
    # Counts begin at 0 or 1, crowd there and thin out; names fill their range, or begin elsewhere.
    crowd = float((row <= low + (high - low) / 10).mean())
    counts = -10 <= low <= 1 and crowd >= 0.7 and len(known) < 0.9 * (high - low + 1)
    rare = len(row) / len(known) < RARE and len(known) < UNIQUE * len(row)
    return counts or rare
