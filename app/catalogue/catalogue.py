"""The catalogue: the encoded row of every item, in memory, for one bundle."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from app.catalogue.filters import Filters
from app.catalogue.rows import GrowingRows
from app.features.arrays import Indices
from app.features.spec import Field
from app.scoring.items import UNKNOWN, Condition, Mask

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_UNKNOWN = repeat(UNKNOWN)


class Catalogue:
    """Rows by id; an ``app.scoring.items.Items``.

    An id that is the text of an integer is found by that integer too. The place of an item that is
    gone is used again: rows are copied out of the table before the event loop runs anything else.
    """

    def __init__(self, width: int, fields: Iterable[Field]) -> None:
        """``width`` is that of an encoded row; ``fields`` are those of the candidate's side."""
        self._rows: GrowingRows[np.int32] = GrowingRows(width, np.int32)
        self._filters = Filters(fields)
        self._ids: list[int | str | None] = []
        self._places: dict[int | str, int] = {}
        self._free: list[int] = []
        self.refused: dict[str, str] = {}
        """Items that the bundle's spec refuses, each with the reason."""

    def __len__(self) -> int:
        return len(self._ids) - len(self._free)

    def put(self, identity: int | str, row: Indices, values: Mapping[str, Any]) -> None:
        """Hold the row and the values of an item, in the place of those that it had."""
        self.refused.pop(str(identity), None)
        place = self._places.get(identity)
        if place is None:
            place = self._free.pop() if self._free else self._new_place()
            for name in _names(identity):
                self._places[name] = place
        self._ids[place] = identity
        self._rows.put(place, row)
        self._filters.put(place, values)

    def _new_place(self) -> int:
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
            self._free.append(place)

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
        if not self._free:
            return np.arange(len(self._ids), dtype=np.int32)
        held = [place for place, identity in enumerate(self._ids) if identity is not None]
        return np.array(held, np.int32)

    def ids(self, places: Indices) -> list[int | str]:
        found = (self._ids[place] for place in places.tolist())
        return [identity for identity in found if identity is not None]

    def rows(self, places: Indices) -> Indices:
        return self._rows.array[places]

    def everywhere(self) -> Mask:
        return np.ones(len(self._rows.array), np.bool_)

    def mask(self, field: str, condition: Condition) -> Mask:
        return self._filters.mask(field, condition)


def _names(identity: int | str) -> set[int | str]:
    """Return the values by which an item is found."""
    if isinstance(identity, int):
        return {identity, str(identity)}
    return {identity, int(identity)} if _INTEGER.fullmatch(identity) else {identity}
