"""The store that a URL names."""

from __future__ import annotations

from pathlib import Path

from app.errors import StoreError
from app.store.sqlite import SqliteStore
from app.store.store import Store

_SQLITE = "sqlite://"


def open_store(url: str, create: bool = False) -> Store:
    """Open the store of a URL, ``sqlite:///absolute/path``; ``create`` makes an empty one.

    Raises:
        StoreError: there is none, or it cannot be used.
    """
    path = Path(url.removeprefix(_SQLITE))
    if not url.startswith(_SQLITE) or not path.is_absolute():
        raise StoreError(f"{url!r} is not the URL of a store: give sqlite:///absolute/path")
    return SqliteStore(path, create)
