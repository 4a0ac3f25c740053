"""The store: raw values of items and profiles, durable and shared by the workers of a service.

Values are stored as they came, never as indices: each bundle reads them by its own spec. Every
change of an item has a number, one higher than the change before it, so that a follower can ask for
what came after the last change that it has seen. Profiles are not followed: they are looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from app.errors import StoreError

_decode = msgspec.json.Decoder(dict[str, object]).decode
Values = Mapping[str, Any]
"""Raw values by field, as a request would have them."""


MOST_ID_BYTES, MOST_VALUE_BYTES = 512, 64 * 2**10
"""Bytes that an entry's id may have as text, and its values as JSON: larger ones are not put."""


class Damaged(dict[str, Any]):
    """Values that a store has and nobody can read: it has no fields, and a reason."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = f"the stored value is damaged: {reason}"


class Item(NamedTuple):
    """One item or profile; ``id`` is what callers know it by. 7 and "7" are the same."""

    id: int | str
    values: Values


class Change(NamedTuple):
    """The newest change of one item; ``values`` is None where the item was deleted."""

    number: int
    id: int | str
    values: Values | None


def read_entry(text: str, integer: bool, values: Any) -> Item:
    """Return the entry of an id's text and of values as JSON; damaged ones are no error."""
    try:
        return Item(int(text) if integer else text, _decode(values))
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        return Item(text, Damaged(str(error)))


def whole(entry: Item) -> Item:
    """Return an entry that can be read.

    Raises:
        StoreError: it is damaged.
    """
    if isinstance(entry.values, Damaged):
        raise StoreError(f"{entry.id!r}: {entry.values.reason}")
    return entry


class Position(NamedTuple):
    """The place to which a follower has read: the store's identity, and its last change's number.

    ``mark`` tells changes of one number apart, where a store can lose some and go on from there.
    """

    epoch: str
    number: int
    mark: int = 0


class Entries(Protocol):
    """Items, or profiles. Every method may block, and none is for the event loop.

    Raises:
        StoreError: by each method, where the store does not answer or is not one.
    """

    def put(self, entries: Iterable[Item]) -> int:
        """Store entries, in the place of those with the same ids; return how many.

        They are durable once this returns. An entry is stored whole or not at all.
        """
        ...

    def delete(self, ids: Sequence[int | str]) -> int:
        """Delete entries; return how many there were."""
        ...

    def get(self, identity: int | str) -> Item | None:
        """Return an entry, or None. One that is damaged is an error."""
        ...

    def each(self) -> Iterator[Item]:
        """Yield all entries, in parts between which others may write.

        An entry that changes meanwhile may come twice. Values that cannot be read are
        :class:`Damaged`.
        """
        ...

    def count(self) -> int:
        """Return the number of entries."""
        ...


class Profiles(Entries, Protocol):
    """Raw context-side values by a key, as a rule a user's id."""

    def find(self, ids: Sequence[str]) -> list[bytes | None]:
        """Return the values of each profile as a JSON object, in the order of the ids; or None.

        All of them are asked for together, in one round trip.
        """
        ...


class Store(Entries, Protocol):
    """A store: its items, and beside them its profiles. Every method may block, as those of its
    entries.
    """

    @property
    def profiles(self) -> Profiles:
        """The profiles; they use the connection of the store."""
        ...

    def items(self) -> tuple[Position, Iterator[Item]]:
        """Return all items, as ``each`` yields them, and the position whose changes come after."""
        ...

    def changes(self, after: Position, most: int) -> tuple[Position, Sequence[Change]]:
        """Return the first changes after a position, in their order, and the position after them.

        ``most`` bounds the changes that are read. An item that changed more than once comes once,
        with its newest values. Nothing has changed where the position stays the same.

        Raises:
            FellBehind: some of them are gone, or the store is another one.
        """
        ...

    def filling(self) -> str | None:
        """Return the epoch of a store that was made and not declared whole since; or None."""
        ...

    def begin_load(self) -> None:
        """Note that all items are about to be put, where the store has not been whole so far."""
        ...

    def loading(self) -> bool:
        """Tell whether that has begun and not ended: some items are missing."""
        ...

    def declare_whole(self) -> None:
        """Note that the items of a store that was made are all there, as far as anyone knows."""
        ...

    def holds(self, path: Path) -> bool:
        """Tell whether a file is one of the store's own."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
