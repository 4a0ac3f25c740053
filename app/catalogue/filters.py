"""``where``: items are chosen by their values, over columns, before any of them is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from app.catalogue.rows import GrowingRows
from app.errors import ValueProblem
from app.features.arrays import Indices
from app.features.canonical import KEYS, number
from app.features.null_values import null_values_of
from app.features.spec import Categorical, Field, MultiCategorical, Numeric
from app.scoring.items import Condition, Mask, Range

MISSING = 0
"""The code of a place without a value."""
SPARE_CODES = 1_000
"""Codes that may be unused, besides as many as there are places, before they are given anew."""


class Numbers:
    """One number for each item, NaN where it is missing."""

    def __init__(self, field: Numeric) -> None:
        self._nulls = null_values_of(field)
        self._rows: GrowingRows[np.float64] = GrowingRows(1, np.float64)

    def put(self, places: Indices, values: Sequence[Any]) -> None:
        """Hold the values of the items at some places."""
        nulls = self._nulls
        found = [np.nan if v is None or v in nulls else number(v) for v in values]
        self._rows.put_all(places, found)

    def matches(self, condition: Condition) -> Mask:
        """Return for each place whether its value meets a condition."""
        values = self._rows.array[:, 0]
        if isinstance(condition, Range):
            # NaN lies in no range.
            return (values >= condition.least) & (values <= condition.most)
        return np.isin(values, [number(value) for value in condition])


class Keys:
    """The values of one field as codes: a row for each item, as wide as its longest list."""

    def __init__(self, field: Categorical | MultiCategorical) -> None:
        self._key: Callable[[Any], Any] = KEYS[field.dtype]
        self._ordered = field.dtype == "integer"
        self._nulls = null_values_of(field)
        self._drops_empty = field.empty_is_missing
        width = field.max_values if isinstance(field, MultiCategorical) else 1
        self._rows: GrowingRows[np.int32] = GrowingRows(width, np.int32)
        self._codes: dict[Any, int] = {}

    def put(self, places: Indices, values: Sequence[Any]) -> None:
        """Hold the values of the items at some places."""
        known, width = self._codes.get, self._rows.width
        found: list[int] = []
        for value in values:
            if type(value) is list:
                there = (each for each in value if not self._missing(each))
                # Values after the last place may be anything: the encoder has not checked them.
                codes = [self._code(each) for each in islice(there, width)]
                found += codes + [MISSING] * (width - len(codes))
            else:
                # Most are written as their key is, which was met before.
                code = known(value)
                if code is None:
                    code = MISSING if self._missing(value) else self._code(value)
                found.append(code)
                if width > 1:
                    found += [MISSING] * (width - 1)
        self._rows.put_all(places, found)
        if len(self._codes) > 2 * len(self._rows.array) + SPARE_CODES:
            self._compact()

    def _missing(self, value: Any) -> bool:
        return value is None or (value == "" and self._drops_empty) or value in self._nulls

    def _code(self, value: Any) -> int:
        return self._codes.setdefault(self._key(value), len(self._codes) + 1)

    def _compact(self) -> None:
        """Give codes again to the values that items have: others were replaced."""
        used, codes = np.unique(self._rows.array, return_inverse=True)
        keys = {code: key for key, code in self._codes.items()}
        kept = [keys[code] for code in used.tolist() if code != MISSING]
        first = 1 - int(MISSING in used)
        self._rows.array[:] = codes.reshape(self._rows.array.shape) + first
        self._codes = {key: code for code, key in enumerate(kept, 1)}

    def matches(self, condition: Condition) -> Mask:
        """Return for each place whether one of its values meets a condition."""
        wanted = np.zeros(len(self._codes) + 1, np.bool_)
        if isinstance(condition, Range):
            if not self._ordered:
                raise ValueProblem("a range needs a field of numbers or integers")
            for key, code in self._codes.items():
                wanted[code] = condition.least <= key <= condition.most
        else:
            for value in condition:
                wanted[self._codes.get(self._key(value), MISSING)] = True
        wanted[MISSING] = False
        found: Mask = np.logical_or.reduce(wanted[self._rows.array], axis=1)
        return found


class Filters:
    """A column for each field of the candidate's side that can be filtered.

    Those are all but times, and dynamic fields, of which no item has a value.
    """

    def __init__(self, fields: Iterable[Field]) -> None:
        self._refused: dict[str, str] = {}
        self._columns: dict[str, Numbers | Keys] = {}
        for field in fields:
            if field.dynamic:
                self._refused[field.name] = "a dynamic field has no stored values to filter by"
            elif isinstance(field, Numeric):
                self._columns[field.name] = Numbers(field)
            elif isinstance(field, Categorical | MultiCategorical):
                self._columns[field.name] = Keys(field)
            else:
                self._refused[field.name] = "a time cannot be filtered"

    def put(self, places: Sequence[int], values: Sequence[Mapping[str, Any]]) -> None:
        """Hold the values of the items at some places; the encoder has taken them.

        A column at a time: an item at a time takes much longer. Of several values for one
        place the last count.
        """
        spots = np.array(places, np.int32)
        for name, column in self._columns.items():
            column.put(spots, [each.get(name) for each in values])

    def mask(self, name: str, condition: Condition) -> Mask:
        """Return for each place whether a value of the field meets the condition.

        Raises:
            ValueProblem: the field cannot be filtered, or not by this condition.
        """
        column = self._columns.get(name)
        if column is None:
            raise ValueProblem(self._refused.get(name, "no candidate field"))
        return column.matches(condition)
