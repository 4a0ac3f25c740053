"""Short ways to fill a store and to look into it."""

from __future__ import annotations

from app.store.store import Item, Store


def contents(store: Store) -> dict[int | str, object]:
    """The values of all items."""
    return dict(store.items()[1])


def put(store: Store, **items: object) -> int:
    """Put items that have one value, ``n``."""
    return store.put(Item(key, {"n": value}) for key, value in items.items())
