"""Search in a store for items by their ids and values."""

from __future__ import annotations

from contextlib import closing
from time import monotonic
from typing import Any

from app.store.opening import open_store
from app.store.store import Damaged, Item

MOST_FOUND = 50
SEARCH_SECONDS = 2.0
"""Time after which a search ends with what it has found: the store may hold millions of items."""


def search_items(url: str, text: str) -> dict[str, Any]:
    """Return items whose id, or a text among whose values, contains a text in any case.

    It reads the store, and may block. The item whose id is the text comes first. ``whole`` is
    false where the search ended before the store did.

    Raises:
        StoreError: the store cannot be used.
    """
    wanted, end = text.casefold(), monotonic() + SEARCH_SECONDS
    found: list[Item] = []
    whole = True
    with closing(open_store(url)) as store:
        exact = store.get(text) if text else None
        if exact is not None:
            found.append(exact)
        for item in store.each():
            if len(found) >= MOST_FOUND or monotonic() > end:
                whole = False
                break
            if str(item.id) != text and _matches(item, wanted):
                found.append(item)
        count = store.count()
    return {
        "items": [{"id": each.id, "features": _values(each)} for each in found],
        "whole": whole,
        "count": count,
    }


def _matches(item: Item, wanted: str) -> bool:
    if not wanted or wanted in str(item.id).casefold():
        return True
    return any(wanted in text.casefold() for text in _texts(list(item.values.values())))


def _texts(values: list[Any]) -> list[str]:
    found = [value for value in values if isinstance(value, str)]
    for value in values:
        if isinstance(value, list):
            found += [each for each in value if isinstance(each, str)]
    return found


def _values(item: Item) -> dict[str, Any]:
    if isinstance(item.values, Damaged):
        return {"damaged": item.values.reason}
    return dict(item.values)
