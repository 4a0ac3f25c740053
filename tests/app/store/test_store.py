"""Promises of every store, in one SQLite file and in Redis."""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import closing
from pathlib import Path

import pytest

from app.errors import FellBehind, StoreError
from app.store import sqlite_file
from app.store.opening import open_store
from app.store.store import Item, Position, Store
from tests.support.serving import wait_until
from tests.support.stores import contents, put

ODD: dict[int | str, dict[str, object]] = {
    "": {},
    " ": {"x": None},
    "a b": {"x": None},
    7: {"list": [1, "two", None]},
    -(2**63): {"": ""},
    "007": {},
    "epoch": {"n": 1},
    ":a": {},
    "{store}": {},
    "a\u0000b\r\nc\u2028\u202e": {},
    "*[a-z]?%20/..": {},
    "\ufeffn\u0303\U0010ffff": {},
    "’; DROP TABLE items; --": {"ünïcode": "\u0000\ud7ff🎬"},
    "x" * 10_000: {"large": 2**53 + 1, "small": 5e-324},
}


@pytest.mark.usefixtures("small_batches")
def test_values_come_back_as_they_were_put(store: Store, url: str) -> None:
    """Any text is a key, any JSON object are values; another connection sees them."""
    assert store.put(Item(*each) for each in ODD.items()) == len(ODD)
    with closing(open_store(url)) as other:
        for key, values in ODD.items():
            assert other.get(key) == (key, values)
        assert contents(other) == ODD
        assert other.count() == len(ODD)
        assert other.get("absent") is None
        assert other.delete(list(ODD)) == len(ODD)
    assert contents(store) == {}


def test_changes_come_in_order_and_once(store: Store) -> None:
    """A follower sees the newest values of each key, and nothing that it has seen."""
    position, _ = store.items()
    assert store.changes(position, 100) == (position, [])
    store.put([Item("a", {"n": 1}), Item("b", {"n": 2}), Item("a", {"n": 3})])
    assert store.delete(["b", "absent"]) == 1
    after, changes = store.changes(position, 100)
    assert [(each.id, each.values) for each in changes] == [("a", {"n": 3}), ("b", None)]
    assert after.number == changes[-1].number == position.number + 4
    _, (first,) = store.changes(position, 1)
    assert first[1:] == changes[0][1:]
    assert store.changes(after, 100) == (after, [])
    put(store, b=4)
    assert [each.values for each in store.changes(after, 100)[1]] == [{"n": 4}]


def test_changes_in_parts_miss_nothing(store: Store) -> None:
    """Each part begins after the position of the one before."""
    position, _ = store.items()
    store.put(Item(n % 700, {"n": n}) for n in range(2_500))
    store.delete(list(range(0, 700, 7)))
    found: dict[int | str, object] = {}
    while (part := store.changes(position, 99))[0] != position:
        position, changes = part
        for change in changes:
            found[int(change.id)] = change.values
    assert {key: values for key, values in found.items() if values is not None} == contents(store)
    assert len(found) == 700


def test_a_follower_that_fell_behind_reads_again(store: Store, few_changes: int) -> None:
    """A deletion that is forgotten must not leave the item in a follower's memory."""
    keys = [str(n) for n in range(few_changes)]
    store.put(Item(key, {}) for key in keys)
    position, _ = store.items()
    store.delete(keys)
    with pytest.raises(FellBehind):
        store.changes(position, 100)
    now, left = store.items()
    assert list(left) == []
    assert store.changes(now, 100) == (now, [])


def test_a_store_that_went_backwards_is_read_again(store: Store) -> None:
    """A backup that was put back has lower numbers; a new store has another epoch."""
    put(store, a=1)
    position, _ = store.items()
    with pytest.raises(FellBehind):
        store.changes(position._replace(number=5), 10)
    with pytest.raises(FellBehind):
        store.changes(Position("another", 0), 10)


def test_creating_a_store_that_is_there_changes_nothing(store: Store, url: str) -> None:
    """Its followers read on."""
    put(store, a=1)
    position, _ = store.items()
    open_store(url, create=True).close()
    assert store.changes(position, 10) == (position, [])
    assert contents(store) == {"a": {"n": 1}}


def test_a_store_that_is_not_there_is_not_made(url: str) -> None:
    """The error says how one is made."""
    for _ in range(2):
        with pytest.raises(StoreError, match="python -m app items create makes one"):
            open_store(url)


def _put_for_ever(url: str) -> None:
    store = open_store(url)
    for turn in range(1_000_000):
        store.put(Item(n, {"turn": turn, "again": turn}) for n in range(500))


def test_a_killed_writer_leaves_whole_items(store: Store, url: str) -> None:
    """And the next writer is not kept out."""
    position, _ = store.items()
    writer = multiprocessing.get_context("fork").Process(target=_put_for_ever, args=[url])
    writer.start()
    wait_until(lambda: len(store.changes(position, 1000)[1]) == 500, "the writer has written")
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    found = contents(store)
    assert len(found) == 500
    assert all(each["turn"] == each["again"] for each in found.values())  # type: ignore[index]
    assert put(store, after=1) == 1


def test_a_first_load_is_noted_until_the_store_is_whole(store: Store, url: str) -> None:
    """Another connection sees it; later loads are changes like any other."""
    with closing(open_store(url)) as other:
        assert not other.loading()
        store.begin_load()
        assert other.loading()
        assert other.filling() is not None
        store.declare_whole()
        assert not other.loading()
        assert other.filling() is None
        store.begin_load()
        assert not other.loading()
        assert other.filling() is None


def test_writers_take_turns(store: Store, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two puts at once lose nothing, and a follower sees all of both."""
    # Turns are not in order: on a busy machine one may wait for all those of the other.
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 60.0)
    position, _ = store.items()
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_put_some, args=[url, name]) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert store.count() == 4_000
    after, changes = store.changes(position, 10_000)
    assert len({each.id for each in changes}) == 4_000
    assert after.number == position.number + 4_000


def _put_some(url: str, name: str) -> None:
    store = open_store(url)
    for part in range(20):
        store.put(Item(f"{name}{part}-{n}", {}) for n in range(100))
    store.close()


def test_an_integer_and_its_text_are_one_item(store: Store) -> None:
    """Callers write ids either way, and get what was put last."""
    store.put([Item("7", {"n": 1}), Item(7, {"n": 2}), Item("007", {"n": 3})])
    assert contents(store) == {7: {"n": 2}, "007": {"n": 3}}
    assert store.get("7") == (7, {"n": 2})
    assert store.delete([7]) == 1
    assert contents(store) == {"007": {"n": 3}}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "give sqlite:///absolute/path or redis://host"),
        ("/var/ctr.db", "give sqlite:///absolute/path or redis://host"),
        ("sqlite://relative.db", "give sqlite:///absolute/path or redis://host"),
        ("postgres://u:secret@host/db", "it must begin with one of redis://"),
        ("redis://u:secret@host/a/b", "its path has too many parts"),
        ("sqlite:///nowhere/store.db", "there is no store /nowhere/store.db"),
    ],
)
def test_what_is_no_store_is_told(url: str, message: str) -> None:
    """The error says what there may be, and shows no password."""
    with pytest.raises(StoreError, match=message) as told:
        open_store(url)
    assert "secret" not in str(told.value)


@pytest.mark.long
def test_one_item_put_a_million_times(store: Store, url: str) -> None:
    """Its changes take no room in the end, and a follower gets the last one or reads again."""
    position, _ = store.items()
    assert store.put(Item("a", {"n": n}) for n in range(1_000_000)) == 1_000_000
    assert contents(store) == {"a": {"n": 999_999}}
    try:
        _, changes = store.changes(position, 10)
    except FellBehind:
        position, _ = store.items()
        _, changes = store.changes(position, 10)
        assert changes == []
    else:
        assert [each.values for each in changes] == [{"n": 999_999}]
    if url.startswith("sqlite://"):
        path = Path(url.removeprefix("sqlite://"))
        assert sum(each.stat().st_size for each in path.parent.glob("store.db*")) < 16 * 2**20
