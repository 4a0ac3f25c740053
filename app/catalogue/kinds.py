"""The two kinds of entries in a store, and what they differ in."""

from __future__ import annotations

from typing import Literal, NamedTuple

from app.features.spec import Side
from app.store.store import Entries, Store


class Kind(NamedTuple):
    """A kind of entries: what they are called, and whose values they are."""

    name: Literal["item", "profile"]
    side: Side
    option: str
    """The option that names the field with the id of an entry."""

    def of(self, store: Store) -> Entries:
        """Return the entries of this kind."""
        return store if self.name == "item" else store.profiles


ITEMS = Kind("item", "candidate", "--id")
PROFILES = Kind("profile", "context", "--key")
