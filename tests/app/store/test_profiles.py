"""Profiles in a store, in one SQLite file and in Redis."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app.errors import StoreError
from app.store.opening import open_store
from app.store.sqlite import SqliteStore
from app.store.store import Item, Store


@pytest.mark.usefixtures("small_batches")
def test_profiles_come_back_as_they_were_put(store: Store, url: str) -> None:
    """Any text is a key, an integer and its text are one; another connection sees them."""
    odd = {"": {}, "’; --": {"a": [1, None]}, 2**64: {"large": 2**53 + 1}, "x" * 5_000: {"n": "ü"}}
    assert store.profiles.put(Item(*each) for each in odd.items()) == 4
    store.profiles.put([Item("7", {"n": 1}), Item(7, {"n": 2})])
    with closing(open_store(url)) as other:
        profiles = other.profiles
        assert {each.id: each.values for each in profiles.each()} == {**odd, 7: {"n": 2}}
        assert profiles.count() == 5
        assert profiles.get("7") == (7, {"n": 2})
        assert profiles.get("absent") is None
        assert profiles.find(["7", "absent", ""]) == [b'{"n":2}', None, b"{}"]
        assert profiles.delete([7, "absent"]) == 1
        assert profiles.find(["7"]) == [None]


def test_items_and_profiles_do_not_touch(store: Store) -> None:
    """The same id may be both; a follower of items sees no change of profiles."""
    position, _ = store.items()
    store.put([Item(1, {"year": 1999})])
    store.profiles.put([Item(1, {"age": 30})])
    store.profiles.delete([1])
    assert [each.values for each in store.changes(position, 10)[1]] == [{"year": 1999}]
    assert (store.count(), store.profiles.count()) == (1, 0)


def test_a_file_that_is_gone_has_no_absent_profiles(tmp_path: Path) -> None:
    """Emptied or deleted: that is told, where an empty answer would change scores silently."""
    path = tmp_path / "store.db"
    with closing(SqliteStore(path, create=True)) as store:
        store.profiles.put([Item(1, {"age": 30})])
        sqlite3.connect(path, isolation_level=None).execute("DELETE FROM store")
        with pytest.raises(StoreError, match="was emptied"):
            store.profiles.find(["1"])
        path.unlink()
        with pytest.raises(StoreError, match="was deleted or replaced"):
            store.profiles.find(["1"])
