"""The catalogue: the encoded row of every item, in memory, for one bundle."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import repeat
from typing import Any, cast

import numpy as np

from app.catalogue.filters import Filters
from app.catalogue.integer_ids import INTEGER_MAX, INTEGER_MIN, IntegerIds
from app.catalogue.item_parts import ItemParts
from app.catalogue.leases import Leases
from app.catalogue.rows import GrowingRows
from app.errors import ValueProblem
from app.features.arrays import Indices
from app.features.spec import Field
from app.scoring.items import UNKNOWN, Condition, Mask
from app.scoring.job import Slots

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_UNKNOWN = repeat(UNKNOWN)
_NO_ITEM, _INTEGER_ID, _OTHER_ID = range(3)
"""The contents of a place: nothing, an item whose id is an integer of 64 bits, or another item."""


class Catalogue:
    """Rows by id; an ``app.scoring.items.Items``.

    An id that is the text of an integer is found by that integer too. Rows are copied out of the
    table before the event loop runs anything else; the place of an item that is gone is used again
    when no request may know of it.
    """

    def __init__(self, width: int, fields: Iterable[Field]) -> None:
        """``width`` is that of an encoded row; ``fields`` are those of the candidate's side."""
        self.parts: ItemParts | None = None
        """The item parts, where they are held."""
        self._rows: GrowingRows[np.int32] = GrowingRows(width, np.int32)
        self._filters = Filters(fields)
        # What is at a place, and its id: an integer in an array, any other in the list.
        self._kinds: GrowingRows[np.int32] = GrowingRows(1, np.int32)
        self._integers: GrowingRows[np.int64] = GrowingRows(1, np.int64)
        self._ids: list[int | str | None] = []
        # Ids of 64 bits, whether they are integers or their text, and all others.
        self._numbers = IntegerIds()
        self._places: dict[int | str, int] = {}
        self._leases: Leases[int] = Leases()
        self._free: list[int] = []
        self._empty = 0
        self.refused: dict[str, str] = {}
        """Items that the bundle's spec refuses, each with the reason."""

    def __len__(self) -> int:
        return len(self._ids) - self._empty

    def build(self, parts: ItemParts) -> None:
        """Begin to compute item parts, which follow the rows from now on."""
        self.parts = parts
        parts.start(self._rows)

    def put(self, identity: int | str, row: Indices, values: Mapping[str, Any]) -> None:
        """Hold the row and the values of an item, in the place of those that it had."""
        self.put_values([self.put_row(identity, row)], [values])

    def put_values(self, places: Sequence[int], values: Sequence[Mapping[str, Any]]) -> None:
        """Hold the values of items at the places that their rows have."""
        self._filters.put(places, values)

    def put_row(self, identity: int | str, row: Indices) -> int:
        """Hold the row of an item and return its place, where its values must follow before any
        request is answered.
        """
        self.refused.pop(str(identity), None)
        place = self._place(identity)
        same = place != UNKNOWN and bool((self._rows.array[place] == row).all())
        if place == UNKNOWN:
            place = self._free_place()
            if (number := _number(identity)) is not None:
                self._numbers.put(number, place)
            else:
                for name in _names(identity):
                    self._places[name] = place
        self._name(place, identity)
        self._rows.put(place, row)
        if self.parts is not None and not same:
            self.parts.change(place)
        return place

    def _name(self, place: int, identity: int | str) -> None:
        """Note the id of the item at a place, as it was put."""
        if isinstance(identity, int) and INTEGER_MIN <= identity <= INTEGER_MAX:
            self._kinds.put(place, _INTEGER_ID)
            self._integers.put(place, identity)
            self._ids[place] = None
        else:
            self._kinds.put(place, _OTHER_ID)
            self._ids[place] = identity

    def _place(self, identity: int | str) -> int:
        """Return the place of an item, or ``UNKNOWN``."""
        number = _number(identity)
        return self._places.get(identity, UNKNOWN) if number is None else self._numbers.get(number)

    def _free_place(self) -> int:
        self._free += self._leases.freed()
        if self._free:
            self._empty -= 1
            return self._free.pop()
        self._ids.append(None)
        return len(self._ids) - 1

    def drop(self, identity: int | str) -> None:
        """Forget an item, if it is there."""
        self.refused.pop(str(identity), None)
        place = self._place(identity)
        if place != UNKNOWN:
            if (number := _number(identity)) is not None:
                self._numbers.drop(number)
            else:
                for name in _names(identity):
                    del self._places[name]
            self._kinds.array[place] = _NO_ITEM
            self._ids[place] = None
            self._empty += 1
            self._leases.give_up(place)
            if self.parts is not None:
                self.parts.drop(place)

    def refuse(self, identity: int | str, reason: str) -> None:
        """Leave an item out, and remember the reason."""
        self.drop(identity)
        self.refused[str(identity)] = reason

    def keep_only(self, ids: Mapping[str, object] | set[str]) -> None:
        """Forget the items whose id, as text, is not among these."""
        for identity in [*self.ids(self.all()), *self.refused]:
            if str(identity) not in ids:
                self.drop(identity)

    def find(self, ids: Sequence[int | str]) -> Indices:
        if set(map(type, ids)) == {int}:
            with suppress(OverflowError):
                return self._numbers.find(cast("Sequence[int]", ids))
        found = np.fromiter(map(self._places.get, ids, _UNKNOWN), np.int32, len(ids))
        others = np.flatnonzero(found == UNKNOWN).tolist()
        numbers = {place: number for place in others if (number := _number(ids[place])) is not None}
        found[list(numbers)] = self._numbers.find(list(numbers.values()))
        return found

    def all(self) -> Indices:
        if not self._empty:
            return np.arange(len(self._ids), dtype=np.int32)
        return np.flatnonzero(self._kinds.array[: len(self._ids), 0]).astype(np.int32)

    def ids(self, places: Indices) -> list[int | str]:
        integers: list[int | str] = self._integers.array[places, 0].tolist()
        kinds = self._kinds.array[places, 0]
        if (kinds == _INTEGER_ID).all():
            return integers
        others = zip(kinds.tolist(), places.tolist(), integers, strict=True)
        found = (
            self._ids[place] if kind == _OTHER_ID else number for kind, place, number in others
        )
        return [identity for identity in found if identity is not None]

    def rows(self, places: Indices) -> Indices:
        return self._rows.array[places]

    def lease(self) -> object:
        return self._leases.lease(), self.parts and self.parts.lease()

    def held(self, places: Indices) -> Indices:
        found: Indices = places[self._kinds.array[places, 0] != _NO_ITEM]
        return found

    def first_cut(self, places: Indices, context: Indices, most: int) -> Callable[[], Indices]:
        if self.parts is None:
            raise ValueProblem("there is no first cut: no item parts are held")
        return self.parts.first_cut(places, context, most)

    def slots(self, places: Indices) -> Slots | None:
        if self.parts is None:
            return None
        return Slots(self.parts.of(places), self.parts.lease())

    def everywhere(self) -> Mask:
        return np.ones(len(self._rows.array), np.bool_)

    def mask(self, field: str, condition: Condition) -> Mask:
        return self._filters.mask(field, condition)


def _number(identity: int | str) -> int | None:
    """Return the integer of 64 bits that an id is, or the text of; None of any other."""
    if isinstance(identity, str):
        if not _INTEGER.fullmatch(identity):
            return None
        identity = int(identity)
    return identity if INTEGER_MIN <= identity <= INTEGER_MAX else None


def _names(identity: int | str) -> set[int | str]:
    """Return the values by which an item is found whose id is no integer of 64 bits."""
    if isinstance(identity, int):
        return {identity, str(identity)}
    return {identity, int(identity)} if _INTEGER.fullmatch(identity) else {identity}
