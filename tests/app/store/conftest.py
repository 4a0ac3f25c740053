"""Stores of each kind, empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.store import redis, redis_connection, sqlite, sqlite_profiles
from app.store.opening import open_store
from app.store.store import Store
from tests.support.redis_server import RedisServer, binaries


@pytest.fixture(scope="module", params=["sqlite", *sorted(binaries())])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer | None]:
    """A server to hold the stores, Valkey's and whatever is installed; none for SQLite."""
    if request.param == "sqlite":
        yield None
        return
    with RedisServer(binaries()[request.param]) as started:
        yield started


@pytest.fixture
def url(server: RedisServer | None, tmp_path: Path) -> str:
    """The address of a place where there is no store yet."""
    if server is None:
        return f"sqlite://{tmp_path / 'store.db'}"
    server.command("FLUSHALL")
    return server.url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A store without items."""
    opened = open_store(url, create=True)
    yield opened
    opened.close()


@pytest.fixture
def few_changes(monkeypatch: pytest.MonkeyPatch) -> int:
    """Changes that no store keeps; Redis cuts a stream off a hundred entries at a time."""
    monkeypatch.setattr(sqlite, "KEPT_DELETIONS", 100)
    monkeypatch.setattr(redis, "KEPT_CHANGES", 100)
    return 300


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two entries at a time."""
    for module in (redis, redis_connection, sqlite, sqlite_profiles):
        monkeypatch.setattr(module, "BATCH_ROWS", 2)
