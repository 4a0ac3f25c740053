"""The store in one SQLite file."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import FellBehind, StoreError
from app.store import sqlite, sqlite_file
from app.store.opening import open_store
from app.store.sqlite import SqliteStore
from app.store.sqlite_file import file_system
from app.store.store import Item, Position, Store
from tests.support.serving import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(path, create=True)
    yield opened
    opened.close()


def contents(store: Store) -> dict[int | str, object]:
    return dict(store.items()[1])


def put(store: Store, **items: object) -> int:
    return store.put(Item(key, {"n": value}) for key, value in items.items())


ODD = {
    "": {},
    "a b": {"x": None},
    7: {"list": [1, "two", None]},
    "’; DROP TABLE items; --": {"ünïcode": "\u0000\ud7ff🎬"},
    "x" * 10_000: {"large": 2**53 + 1, "small": 5e-324},
}


def test_values_come_back_as_they_were_put(store: SqliteStore, path: Path) -> None:
    """Any text is a key, any JSON object are values; another connection sees them."""
    assert store.put(Item(*each) for each in ODD.items()) == len(ODD)
    other = SqliteStore(path)
    for key, values in ODD.items():
        assert other.get(key) == (key, values)
    assert contents(other) == ODD
    assert other.count() == len(ODD)
    assert other.get("absent") is None
    other.close()


def test_changes_come_in_order_and_once(store: SqliteStore) -> None:
    """A follower sees the newest value of each key, and nothing that it has seen."""
    position, _ = store.items()
    store.put([Item("a", {"n": 1}), Item("b", {"n": 2}), Item("a", {"n": 3})])
    assert store.delete(["b", "absent"]) == 1
    changes = store.changes(position, 100)
    assert [(each.id, each.values) for each in changes] == [("a", {"n": 3}), ("b", None)]
    (first,) = store.changes(position, 1)
    assert first == changes[0]
    after = Position(position.epoch, changes[-1].number)
    assert store.changes(after, 100) == []
    put(store, b=4)
    assert [each.values for each in store.changes(after, 100)] == [{"n": 4}]


def test_one_item_put_many_times_is_one_row(store: SqliteStore, path: Path) -> None:
    """The store does not grow with changes, only with items."""
    store.put(Item("a", {"n": n}) for n in range(20_000))
    assert store.get("a") == ("a", {"n": 19_999})
    assert sqlite3.connect(path).execute("SELECT count(*) FROM items").fetchone() == (1,)


def test_whoever_fell_behind_the_deletions_reads_again(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion that is forgotten must not leave the item in a follower's memory."""
    monkeypatch.setattr(sqlite, "KEPT_DELETIONS", 3)
    keys = [str(n) for n in range(8)]
    store.put(Item(key, {}) for key in keys)
    position, _ = store.items()
    for key in keys:
        store.delete([key])
    with pytest.raises(FellBehind):
        store.changes(position, 100)
    now, left = store.items()
    assert list(left) == []
    assert store.changes(now, 100) == []


def test_a_store_that_went_backwards_is_read_again(path: Path) -> None:
    """A backup that was put back has lower numbers; a new store has another epoch."""
    store = SqliteStore(path, create=True)
    put(store, a=1)
    with pytest.raises(FellBehind):
        store.changes(Position(store.items()[0].epoch, 5), 10)
    with pytest.raises(FellBehind):
        store.changes(Position("another", 0), 10)
    store.close()


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


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://127.0.0.1", "is not the URL of a store"),
        ("sqlite://relative.db", "is not the URL of a store"),
        ("sqlite:///nowhere/store.db", "there is no store /nowhere/store.db"),
    ],
)
def test_what_is_no_store_is_told(url: str, message: str) -> None:
    """The error names the URL or the file."""
    with pytest.raises(StoreError, match=message):
        open_store(url)


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


def _put_for_ever(path: Path) -> None:
    store = SqliteStore(path)
    for turn in range(1_000_000):
        store.put(Item(n, {"turn": turn, "again": turn}) for n in range(500))


def test_a_killed_writer_leaves_whole_items(store: SqliteStore, path: Path) -> None:
    """And the next writer is not kept out."""
    position, _ = store.items()
    writer = multiprocessing.get_context("fork").Process(target=_put_for_ever, args=[path])
    writer.start()
    wait_until(lambda: len(store.changes(position, 1000)) == 500, "the writer has written")
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    found = contents(store)
    assert len(found) == 500
    assert all(each["turn"] == each["again"] for each in found.values())  # type: ignore[index]
    assert put(store, after=1) == 1


def test_writers_take_turns(store: SqliteStore, path: Path) -> None:
    """Two puts at once lose nothing."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_put_some, args=[path, name]) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert store.count() == 4_000


def _put_some(path: Path, name: str) -> None:
    store = SqliteStore(path)
    for part in range(20):
        store.put(Item(f"{name}{part}-{n}", {}) for n in range(100))


def test_a_full_disk_loses_nothing_that_was_stored(path: Path) -> None:
    """SQLite's own limit of pages stands for the disk."""
    store = SqliteStore(path, create=True)
    put(store, a=1)
    store._file.execute("PRAGMA max_page_count = 20")
    with pytest.raises(StoreError, match="full"):
        store.put(Item(n, {"text": "x" * 500}) for n in range(1_000))
    assert contents(store) == {"a": {"n": 1}}
    store.close()


def test_an_integer_and_its_text_are_one_item(store: SqliteStore) -> None:
    """Callers write ids either way, and get what was put last."""
    store.put([Item("7", {"n": 1}), Item(7, {"n": 2}), Item("007", {"n": 3})])
    assert contents(store) == {7: {"n": 2}, "007": {"n": 3}}
    assert store.get("7") == (7, {"n": 2})
    assert store.delete([7]) == 1
    assert contents(store) == {"007": {"n": 3}}
