"""Field encoders: the values of one field → 32-bit words, one class for each kind of field.

Each encodes one value at a time (``one``, for a request's few rows) and a column at once
(``many``, for columnar lists and training files). Both give the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from app.errors import ValueProblem
from app.features.arrays import Indices
from app.features.canonical import (
    INTEGER_MAX,
    INTEGER_MIN,
    KEYS,
    kind_of,
    seconds,
    time_parts,
)
from app.features.column_encoding import FieldEncoder, Misses, one_by_one, settle
from app.features.layout import PADDING, Slot
from app.features.null_values import null_values_of
from app.features.number_encoders import BucketEncoder, LogSquaredEncoder, ScaledEncoder
from app.features.spec import Categorical, Field, MultiCategorical, Numeric, Time
from app.features.vocabulary import Edges, Scale, Vocabulary

Tables = Mapping[str, dict[Any, int]]
"""Key → row, by slot."""
NO_TABLES: Tables = MappingProxyType({})
Find = Callable[[Any], int]
"""Key that the slot's table lacks → row, which is that of OOV if the key is unknown."""
Finds = Mapping[str, Find]
"""``Find`` by slot, for tables that hold a part of a slot's values."""
NO_FINDS: Finds = MappingProxyType({})
_INTEGER_OR_NONE = frozenset((int, type(None)))
_UNKNOWN = repeat(-1)
"""Stands for the row of each value that a table lacks."""


class _Lookup:
    """Value → row of one vocabulary slot, by the rules of its field.

    ``known`` also has the row of *missing* under each value that counts as missing, so that one
    look-up settles most values.
    """

    def __init__(
        self,
        field: Categorical | MultiCategorical,
        slot: Slot,
        lookup: dict[Any, int],
        find: Find | None,
    ) -> None:
        self.known: dict[Any, int] = lookup
        self.find = find
        self.dtype = field.dtype
        self.empty_is_missing = field.empty_is_missing
        self.slot = slot
        self._key = KEYS[field.dtype]

    def row(self, value: Any, misses: Misses | None) -> int:
        """Return the row of a value that is not missing, after checking it."""
        key = self._key(value)
        row = self.known.get(key)
        if row is not None:
            return row
        if misses is None:
            return self.slot.oov if self.find is None else self.find(key)
        return ~misses.setdefault((self.slot.source, key), len(misses))


class CategoricalEncoder:
    """One index: the row of the value, of *missing*, or of *OOV*."""

    width = 1

    def __init__(
        self, field: Categorical, slot: Slot, lookup: dict[Any, int], find: Find | None = None
    ) -> None:
        self.name = field.name
        self.lookup = _Lookup(field, slot, lookup, find)
        self.nulls = null_values_of(field)
        self.required = field.required
        self.complete = find is None and not (field.required or self.nulls)
        """The table has all that a canonical value can mean: all others are OOV."""
        if not field.required:
            lookup[None] = slot.missing
            if field.empty_is_missing:
                lookup[""] = slot.missing
            for key in self.nulls.keys if self.nulls else ():
                lookup[key] = slot.missing

    def index(self, value: Any, misses: Misses | None) -> int:
        """Encode a value that is not in the table of known values."""
        if value is None or (value == "" and self.lookup.empty_is_missing) or value in self.nulls:
            if self.required:
                raise ValueProblem("required")
            return self.lookup.slot.missing
        return self.lookup.row(value, misses)

    def one(self, value: Any, misses: Misses | None = None) -> tuple[int, ...]:
        return (self.index(value, misses),)

    def many(self, values: Sequence[Any], misses: Misses | None = None) -> Indices:
        # True == 1 == 1.0, so a table of integers would take all three. No other type equals text.
        if self.lookup.dtype == "integer" and not _INTEGER_OR_NONE.issuperset(map(type, values)):
            return one_by_one(self, values, misses)
        known = self.lookup.known.get
        try:
            found = np.fromiter(map(known, values, _UNKNOWN), np.int32, len(values))
        except TypeError:
            # A value is a list or an object.
            return one_by_one(self, values, misses)
        result = found.reshape(-1, 1)
        if (found < 0).any():
            left = np.flatnonzero(found < 0).tolist()
            if misses is None and self.complete and self._canonical([values[at] for at in left]):
                found[left] = self.lookup.slot.oov
            else:
                settle(self, values, left, result, misses)
        return result

    def _canonical(self, values: Sequence[Any]) -> bool:
        """Tell whether values are their own keys, so that those which the table lacks are OOV."""
        if self.lookup.dtype == "string":
            return {*map(type, values)} <= {str}
        if self.lookup.dtype == "integer":
            # They are integers: a None is in the table.
            return bool(min(values) >= INTEGER_MIN and max(values) <= INTEGER_MAX)
        return False


class ListEncoder:
    """``max_values`` indices: the first values of a list, then padding."""

    def __init__(
        self, field: MultiCategorical, slot: Slot, lookup: dict[Any, int], find: Find | None = None
    ) -> None:
        self.name = field.name
        self.width = field.max_values
        self.lookup = _Lookup(field, slot, lookup, find)
        self.nulls = null_values_of(field)
        self.required = field.required
        self._kind = int if field.dtype == "integer" else str
        self._missing = self._pad(() if slot.empty_if_absent else (slot.missing,))

    def _pad(self, rows: tuple[int, ...]) -> tuple[int, ...]:
        return rows + (PADDING,) * (self.width - len(rows))

    def _value(self, value: Any, position: int, misses: Misses | None) -> int:
        if value is None:
            raise ValueProblem("null inside a list", position)
        try:
            return self.lookup.row(value, misses)
        except ValueProblem as problem:
            raise ValueProblem(problem.problem, position) from None

    def one(self, value: Any, misses: Misses | None = None) -> tuple[int, ...]:
        if value is None or (type(value) is not list and value in self.nulls):
            return self._absent()
        if type(value) is not list:
            raise ValueProblem(f"expected a list, got {kind_of(value)}")
        known, kind, absent = self.lookup.known, self._kind, self.lookup.slot.missing
        rows: list[int] = []
        null = False
        for position, item in enumerate(value):
            row = known.get(item) if item.__class__ is kind else None
            # A table that is another field's too has the texts that are missing there.
            if row is None or row == absent:
                if item == "" and self.lookup.empty_is_missing:
                    continue
                if item in self.nulls:
                    null = True
                    continue
                row = self._value(item, position, misses)
            rows.append(row)
            # Values after the last place are not even checked, so long lists cost nothing.
            if len(rows) == self.width:
                break
        return self._absent() if null and not rows else self._pad(tuple(rows))

    def _absent(self) -> tuple[int, ...]:
        if self.required:
            raise ValueProblem("required")
        return self._missing

    def many(self, values: Sequence[Any], misses: Misses | None = None) -> Indices:
        return one_by_one(self, values, misses)


class TimeEncoder:
    """One index for each part of the local date and hour that the spec names."""

    def __init__(
        self, field: Time, slots: Sequence[Slot], lookups: Sequence[dict[Any, int]]
    ) -> None:
        self.name = field.name
        self.width = len(slots)
        self.required = field.required
        self._parts = field.parts
        self._zone = ZoneInfo(field.timezone)
        self._format = field.format
        self._known = [(lookup, slot.oov) for lookup, slot in zip(lookups, slots, strict=True)]
        self._missing = tuple(slot.missing for slot in slots)
        self._nulls = null_values_of(field)

    def one(self, value: Any, misses: Misses | None = None) -> tuple[int, ...]:
        if value is None or value == "" or value in self._nulls:
            if self.required:
                raise ValueProblem("required")
            return self._missing
        parts = time_parts(seconds(value, self._zone, self._format), self._zone, self._parts)
        return tuple(
            known.get(part, oov) for part, (known, oov) in zip(parts, self._known, strict=True)
        )

    def many(self, values: Sequence[Any], misses: Misses | None = None) -> Indices:
        return one_by_one(self, values, misses)


def field_encoder(
    field: Field, vocabulary: Vocabulary, tables: Tables = NO_TABLES, finds: Finds = NO_FINDS
) -> FieldEncoder:
    """Return the encoder of one field's own values.

    Its tables come from the vocabulary, but for those that ``tables`` holds.
    """
    by_name = {slot.name: slot for slot in vocabulary.layout.slots}
    slots = [by_name[name] for name in field.slot_names]
    parts = [vocabulary.slots[name] for name in field.slot_names]
    lookups = [
        tables[slot.source]
        if slot.source in tables
        else {}
        if isinstance(part, Edges | Scale)
        else part.lookup()
        for slot, part in zip(slots, parts, strict=True)
    ]
    match field:
        case Categorical():
            return CategoricalEncoder(field, slots[0], lookups[0], finds.get(field.name))
        case MultiCategorical():
            return ListEncoder(field, slots[0], lookups[0], finds.get(slots[0].source))
        case Time():
            return TimeEncoder(field, slots, lookups)
        case Numeric():
            (part,) = parts
            if isinstance(part, Edges):
                return BucketEncoder(field, slots[0], part.edges)
            if isinstance(part, Scale):
                return ScaledEncoder(field, slots[0], part)
            return LogSquaredEncoder(field, slots[0], lookups[0])
