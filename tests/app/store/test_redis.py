"""The store in Redis: what can become of a server and of the way to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from app.errors import FellBehind, StoreError
from app.store import redis_connection
from app.store.opening import open_store
from app.store.redis import RedisStore
from app.store.redis_connection import CHANGES, ITEMS, PROFILES
from app.store.store import Item, Store
from tests.support.redis_server import RedisServer, cluster_of_three
from tests.support.serving import wait_until
from tests.support.stores import contents, put


@pytest.fixture
def store(valkey: RedisServer) -> Iterator[RedisStore]:
    opened = RedisStore(valkey.url, create=True)
    yield opened
    opened.close()


@pytest.mark.parametrize("lost", [ITEMS, CHANGES, None])
def test_an_emptied_store_is_an_error_not_an_empty_one(
    valkey: RedisServer, store: RedisStore, lost: str | None
) -> None:
    """All of it or one key, by hand or by eviction; creating it again keeps the items left."""
    put(store, a=1, b=2)
    position, items = store.items()
    assert valkey.command("UNLINK", lost) == ":1" if lost else valkey.command("FLUSHALL") == "+OK"
    for work in (lambda: put(store, c=3), lambda: store.delete(["a"]), store.items,
                 lambda: RedisStore(valkey.url)):  # fmt: skip
        with pytest.raises(StoreError, match="was emptied"):
            work()
    with pytest.raises((StoreError, FellBehind)):
        store.changes(position, 10)
    if lost != CHANGES:
        with pytest.raises(StoreError, match="was emptied"):
            list(items)
        with pytest.raises(StoreError, match="was emptied"):
            store.get("a")
        with pytest.raises(StoreError, match="was emptied"):
            store.count()
    with closing(RedisStore(valkey.url, create=True)) as again:
        with pytest.raises(FellBehind):
            store.changes(position, 10)
        assert len(contents(again)) == (2 if lost == CHANGES else 0)


def test_lost_profiles_are_an_error_not_absent_ones(valkey: RedisServer, store: RedisStore) -> None:
    """Items are not touched; creating the store again makes an empty set of profiles."""
    put(store, a=1)
    position, _ = store.items()
    store.profiles.put([Item(1, {"age": 30})])
    valkey.command("DEL", PROFILES)
    works: list[Callable[[], object]] = [
        lambda: store.profiles.find(["1"]), lambda: store.profiles.get(1), store.profiles.count,
        lambda: store.profiles.put([Item(1, {})]), lambda: store.profiles.delete([1]),
        lambda: list(store.profiles.each()),
    ]  # fmt: skip
    for work in works:
        with pytest.raises(StoreError, match="was emptied"):
            work()
    with closing(RedisStore(valkey.url, create=True)) as again:
        assert again.profiles.find(["1"]) == [None]
    assert store.changes(position, 10) == (position, [])


@pytest.mark.slow
def test_a_failover_that_went_backwards_is_noticed(valkey: RedisServer, store: RedisStore) -> None:
    """A replica that had not seen the last changes goes on with the same numbers."""
    valkey.command("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    put(store, a=1)
    with RedisServer() as other:
        other.command("REPLICAOF", "127.0.0.1", valkey.port)
        wait_until(lambda: other.command("XLEN", CHANGES) == ":2", "the replica has the item")
        other.command("REPLICAOF", "NO", "ONE")
        put(store, lost=1)
        position, _ = store.items()
        with closing(RedisStore(other.url)) as promoted:
            with pytest.raises(FellBehind):
                promoted.changes(position, 10)
            put(promoted, new=1)
            now, _ = promoted.items()
            assert (now.epoch, now.number) == (position.epoch, position.number)
            with pytest.raises(FellBehind):
                promoted.changes(position, 10)
            put(promoted, newer=1)
            with pytest.raises(FellBehind):
                promoted.changes(position, 10)


def test_a_replica_takes_no_items(valkey: RedisServer, store: RedisStore) -> None:
    """The error says that Redis refuses; the address is in the detail only."""
    valkey.command("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(StoreError, match="READONLY") as told:
        put(store, a=1)
    assert told.value.shown == "Redis refuses a command"


def test_redis_that_is_full_stores_whole_items_or_none(
    valkey: RedisServer, store: RedisStore
) -> None:
    """A refused script has written nothing."""
    valkey.command("CONFIG", "SET", "maxmemory", "8mb")
    with pytest.raises(StoreError, match="OOM"):
        store.put(Item(n, {"text": "x" * 500}) for n in range(50_000))
    position, items = store.items()
    assert sum(1 for _ in items) == position.number == store.count() > 0


@pytest.mark.parametrize("fault", ["killed", "silent"])
def test_redis_that_does_not_answer_is_an_error(
    valkey: RedisServer, store: RedisStore, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """In bounded time; the same store answers once Redis does."""
    put(store, a=1)
    monkeypatch.setattr(redis_connection, "ASK_SECONDS", 0.2)
    if fault == "killed":
        valkey.stop()
    else:
        valkey.freeze()
    began = time.monotonic()
    with pytest.raises(StoreError) as told:
        store.count()
    assert time.monotonic() - began < 10
    assert str(valkey.port) in str(told.value)
    assert str(valkey.port) not in told.value.shown
    if fault == "killed":
        valkey.start()
    else:
        valkey.thaw()
    monkeypatch.setattr(redis_connection, "ASK_SECONDS", 30.0)
    if fault == "silent":
        assert store.count() == 1
        return
    with pytest.raises(StoreError, match="was emptied"):
        store.count()


def test_one_item_put_many_times_is_one_item(
    valkey: RedisServer, store: RedisStore, few_changes: int
) -> None:
    """Its changes are cut off."""
    store.put(Item("a", {"n": n}) for n in range(20_000))
    assert contents(store) == {"a": {"n": 19_999}}
    assert int(valkey.command("XLEN", CHANGES)[1:]) <= few_changes


def test_the_rights_that_the_documentation_names_are_enough(valkey: RedisServer) -> None:
    """A user with only these can do everything; without a right the command is named."""
    text = (Path(__file__).parents[3] / "docs/catalogue.md").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("ACL SETUSER"):
            assert valkey.command(*line.split()) == "+OK"
    url = valkey.url.replace("//", "//shop:secret@")
    reading = valkey.url.replace("//", "//shop-reader:secret@")
    with closing(open_store(url, create=True)) as store:
        assert put(store, a=1, b=2) == 2
        assert store.delete(["a"]) == 1
        position, items = store.items()
        assert [each.id for each in items] == ["b"]
        assert store.profiles.put([Item("u", {}), Item("v", {})]) == 2
        assert store.profiles.delete(["v"]) == 1
        assert store.changes(position, 10) == (position, [])
        assert (store.get("b"), store.count()) == (("b", {"n": 2}), 1)
        with closing(open_store(reading)) as reader:
            position, items = reader.items()
            assert [each.id for each in items] == ["b"]
            assert reader.profiles.find(["u"]) == [b"{}"]
            put(store, c=3)
            assert [each.id for each in reader.changes(position, 10)[1]] == ["c"]
            with pytest.raises(StoreError, match="eval"):
                put(reader, d=4)


def test_a_connection_that_the_server_closed_is_opened_again(
    valkey: RedisServer, store: RedisStore
) -> None:
    """At the next question."""
    put(store, a=1)
    valkey.command("CLIENT", "KILL", "TYPE", "normal")
    wait_until(lambda: _answers(store), "the store answers again")


def _answers(store: RedisStore) -> bool:
    try:
        return store.count() == 1
    except StoreError:
        return False


@pytest.mark.slow
def test_a_cluster_holds_a_store(tmp_path: Path) -> None:
    """All its keys lie on one node, where scripts reach them; any node is asked first."""
    with cluster_of_three(tmp_path) as nodes:
        opened: list[Store] = []

        def created() -> bool:
            with suppress(StoreError):
                url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
                opened.append(open_store(url, create=True))
            return bool(opened)

        wait_until(created, "the nodes agree", 30)
        with closing(opened[0]) as store:
            position, _ = store.items()
            assert store.put(Item(n, {"n": n}) for n in range(3_000)) == 3_000
            assert store.delete([1, 2]) == 2
            assert store.profiles.put([Item(7, {"age": 30})]) == 1
        with closing(open_store(f"redis+cluster://127.0.0.1:{nodes[2].port}")) as other:
            assert other.count() == len(contents(other)) == 2_998
            after, changes = other.changes(position, 10_000)
            assert (after.number, len(changes)) == (3_002, 3_000)
            assert other.profiles.find(["7", "8"]) == [b'{"age":30}', None]
