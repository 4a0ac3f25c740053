"""Items: candidates that the service knows by id, so that a request need not send their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.features.arrays import Indices

UNKNOWN = -1
"""The place of an id that is not in the catalogue."""


class Items(Protocol):
    """The scorer's view of a catalogue. It is touched on the event loop only."""

    def find(self, ids: Sequence[int | str]) -> Indices:
        """Return the place of each id, or ``UNKNOWN``; 7 and "7" have the same."""
        ...

    def all(self) -> Indices:
        """Return the places of all items."""
        ...

    def ids(self, places: Indices) -> list[int | str]:
        """Return the ids of the items at these places."""
        ...

    def rows(self, places: Indices) -> Indices:
        """Return a copy of the encoded rows at these places [N, width]."""
        ...
