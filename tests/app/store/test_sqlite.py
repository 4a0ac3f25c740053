"""The store in one SQLite file: what is the file's own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import StoreError
from app.store import sqlite_file
from app.store.opening import open_store
from app.store.sqlite import SqliteStore
from app.store.sqlite_file import file_system
from app.store.store import Item
from tests.support.stores import contents, put


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(path, create=True)
    yield opened
    opened.close()


def test_one_item_put_many_times_is_one_row(store: SqliteStore, path: Path) -> None:
    """The store does not grow with changes, only with items."""
    store.put(Item("a", {"n": n}) for n in range(20_000))
    assert store.get("a") == ("a", {"n": 19_999})
    assert sqlite3.connect(path).execute("SELECT count(*) FROM items").fetchone() == (1,)


def test_a_store_that_is_gone_is_an_error_not_an_empty_one(store: SqliteStore, path: Path) -> None:
    """Deleted, replaced or emptied: what was read from it stays in use."""
    put(store, a=1)
    position, _ = store.items()
    other = SqliteStore(path)
    sqlite3.connect(path, isolation_level=None).execute("DELETE FROM store")
    with pytest.raises(StoreError, match="was emptied"):
        other.changes(position, 10)
    path.unlink()
    with pytest.raises(StoreError, match="was deleted or replaced"):
        other.changes(position, 10)
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="was deleted or replaced"):
        other.changes(position, 10)
    with pytest.raises(StoreError, match="is not a store, or was emptied"):
        SqliteStore(path)
    other.close()


def test_another_file_is_not_taken_for_a_store(tmp_path: Path) -> None:
    """The error names it; the file stays as it is."""
    path = tmp_path / "log.csv"
    path.write_text("a,b\n" * 1000)
    with pytest.raises(StoreError, match=r"log\.csv"):
        open_store(f"sqlite://{path}", create=True)
    assert path.read_text() == "a,b\n" * 1000


def test_a_network_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's log needs memory that the processes of one host share."""
    assert file_system(Path("/proc/self/status")) == "proc"
    monkeypatch.setattr(sqlite_file, "file_system", lambda path: "nfs4")
    with pytest.raises(StoreError, match="network file system"):
        SqliteStore(path, create=True)
    assert not path.exists()


def test_a_full_disk_loses_nothing_that_was_stored(path: Path) -> None:
    """SQLite's own limit of pages stands for the disk."""
    store = SqliteStore(path, create=True)
    put(store, a=1)
    store._file.execute("PRAGMA max_page_count = 20")
    with pytest.raises(StoreError, match="full"):
        store.put(Item(n, {"text": "x" * 500}) for n in range(1_000))
    assert contents(store) == {"a": {"n": 1}}
    store.close()
