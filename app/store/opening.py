"""The store that a URL names."""

from __future__ import annotations

from pathlib import Path

from app.errors import StoreError
from app.store.redis import RedisStore
from app.store.sqlite import SqliteStore
from app.store.store import Store

_SQLITE = "sqlite"


def open_store(url: str, create: bool = False) -> Store:
    """Open the store of a URL; ``create`` makes an empty one where there is none.

    The URL is ``sqlite:///absolute/path``, or one of Redis as ``app.remote.address`` reads it.

    Raises:
        StoreError: there is none, or it cannot be used.
    """
    scheme, separator, rest = url.partition("://")
    path = Path(rest)
    if scheme == _SQLITE and path.is_absolute():
        return SqliteStore(path, create)
    if scheme == _SQLITE or not separator:
        # No more of it: it may hold a password.
        raise StoreError("the URL of the store: give sqlite:///absolute/path or redis://host")
    return RedisStore(url, create)


def open_to_put(url: str, create: bool) -> Store:
    """Open the store of a URL for a command that puts; a SQLite file that is absent is made.

    A Redis that has no store may be one that was emptied, where a put of some items would be taken
    for the whole: a store is made there only if the caller says ``create``.

    Raises:
        StoreError: there is none, or it cannot be used.
    """
    return open_store(url, create or url.startswith(f"{_SQLITE}://"))
