"""The catalogue: the encoded row of every item, in memory, for one bundle."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from app.catalogue.filters import Filters
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
        self._ids: list[int | str | None] = []
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
        self.refused.pop(str(identity), None)
        place = self._places.get(identity)
        same = place is not None and bool((self._rows.array[place] == row).all())
        if place is None:
            place = self._free_place()
            for name in _names(identity):
                self._places[name] = place
        self._ids[place] = identity
        self._rows.put(place, row)
        self._filters.put(place, values)
        if self.parts is not None and not same:
            self.parts.change(place)

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
        place = self._places.get(identity)
        if place is not None:
            for name in _names(identity):
                del self._places[name]
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
        for identity in [*self._ids, *self.refused]:
            if identity is not None and str(identity) not in ids:
                self.drop(identity)

    def find(self, ids: Sequence[int | str]) -> Indices:
        return np.fromiter(map(self._places.get, ids, _UNKNOWN), np.int32, len(ids))

    def all(self) -> Indices:
        if not self._empty:
            return np.arange(len(self._ids), dtype=np.int32)
        held = [place for place, identity in enumerate(self._ids) if identity is not None]
        return np.array(held, np.int32)

    def ids(self, places: Indices) -> list[int | str]:
        found = (self._ids[place] for place in places.tolist())
        return [identity for identity in found if identity is not None]

    def rows(self, places: Indices) -> Indices:
        return self._rows.array[places]

    def lease(self) -> object:
        return self._leases.lease(), self.parts and self.parts.lease()

    def held(self, places: Indices) -> Indices:
        there = (self._ids[place] is not None for place in places.tolist())
        return places[np.fromiter(there, np.bool_, len(places))]

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


def _names(identity: int | str) -> set[int | str]:
    """Return the values by which an item is found."""
    if isinstance(identity, int):
        return {identity, str(identity)}
    return {identity, int(identity)} if _INTEGER.fullmatch(identity) else {identity}
