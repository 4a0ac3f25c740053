"""The store: raw values of items, by id, durable and shared by the workers of a service.

Values are stored as they came, never as indices: each bundle reads them by its own spec. Every
change has a number, one higher than the change before it, so that a follower can ask for what came
after the last change that it has seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

Values = Mapping[str, Any]
"""Raw values by field, as a request would have them."""


class Item(NamedTuple):
    """One item; ``id`` is what callers know it by. 7 and "7" are the same item."""

    id: int | str
    values: Values


class Change(NamedTuple):
    """The newest change of one item; ``values`` is None where the item was deleted."""

    number: int
    id: int | str
    values: Values | None


class Position(NamedTuple):
    """How far a follower has read: the store's identity, and the number of its last change."""

    epoch: str
    number: int


class Store(Protocol):
    """A store. Every method may block, and none is for the event loop.

    Raises:
        StoreError: by each method, where the store does not answer or is not one.
    """

    def put(self, items: Iterable[Item]) -> int:
        """Store items, in the place of those with the same ids; return how many.

        They are durable once this returns. An item is stored whole or not at all.
        """
        ...

    def delete(self, ids: Sequence[int | str]) -> int:
        """Delete items; return how many there were."""
        ...

    def get(self, identity: int | str) -> Item | None:
        """Return an item, or None."""
        ...

    def items(self) -> tuple[Position, Iterator[Item]]:
        """Return all items, and the position whose changes come after them."""
        ...

    def changes(self, after: Position, most: int) -> Sequence[Change]:
        """Return the first changes after a position, in their order; none if nothing changed.

        Raises:
            FellBehind: some of them are gone, or the store is another one.
        """
        ...

    def count(self) -> int:
        """Return the number of items."""
        ...

    def holds(self, path: Path) -> bool:
        """Tell whether a file is one of the store's own."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
