"""A catalogue follows a store in Redis, through what can become of a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.bundle.bundle import Bundle
from app.catalogue.follower import Follower
from app.features.encoder import Encoder
from app.store import redis, redis_connection
from app.store.opening import open_store
from app.store.redis_connection import CHANGES, ITEMS
from app.store.store import Item, Store
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.samples import Sample, candidate_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def proxy(valkey: RedisServer) -> Iterator[Proxy]:
    """The follower's way to Redis, which can be cut and led elsewhere."""
    with Proxy(valkey.port) as started:
        yield started


@pytest.fixture
async def following(
    valkey: RedisServer, proxy: Proxy, tiny_bundle: Path
) -> AsyncIterator[Follower]:
    """A follower of an empty store."""
    await changed(valkey, lambda store: 0)
    bundle = Bundle.open(tiny_bundle)
    candidate = Encoder(bundle.spec, bundle.vocabulary).candidate
    made = Follower(f"redis://127.0.0.1:{proxy.port}", bundle.spec, candidate, None)
    await made.fill()
    made.start()
    yield made
    await made.close()


async def reached(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def changed(server: RedisServer, work: Callable[[Store], int]) -> None:
    """Change the store, in a thread."""

    def change() -> None:
        with closing(open_store(server.url, create=True)) as store:
            work(store)

    await asyncio.to_thread(change)


def whole_with(item: Item) -> Callable[[Store], int]:
    """Put an item, the last one that there is, as the command does."""

    def work(store: Store) -> int:
        stored = store.put([item])
        store.declare_whole()
        return stored

    return work


def ids(follower: Follower) -> set[str]:
    catalogue = follower.catalogue
    return {str(identity) for identity in catalogue.ids(catalogue.all())}


async def test_rows_are_those_that_a_request_would_have(
    following: Follower, valkey: RedisServer, sample: Sample
) -> None:
    """To the bit; an item that goes is gone."""
    items = [Item(number, candidate_of(row)) for number, row in enumerate(sample.rows[:300])]
    await changed(valkey, lambda store: store.put(items))
    await reached(lambda: len(following.catalogue) == 300)
    catalogue, candidate = following.catalogue, following._candidate
    rows = catalogue.rows(catalogue.find([item.id for item in items]))
    for item, row in zip(items, rows, strict=True):
        assert row.tobytes() == candidate.row(item.values)
    await changed(valkey, lambda store: store.delete([item.id for item in items[::2]]))
    await reached(lambda: len(following.catalogue) == 150)
    assert (catalogue.find([0, 1, "2", "3"]) >= 0).tolist() == [False, True, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "emptied", "silent"])
async def test_the_last_catalogue_serves_while_redis_is_away(
    following: Follower, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Redis that comes back empty is no empty catalogue; a store that is made anew is read."""
    await changed(valkey, lambda store: store.put([Item("a", {}), Item("b", {})]))
    await reached(lambda: ids(following) == {"a", "b"})
    if fault == "silent":
        monkeypatch.setattr(redis_connection, "ASK_SECONDS", 0.5)
        valkey.freeze()
        await reached(lambda: following.problem == "Redis did not answer in time")
        assert ids(following) == {"a", "b"}
        valkey.thaw()
        await reached(lambda: following.problem is None)
        return
    if fault == "killed":
        valkey.stop()
        await reached(lambda: following.problem == "Redis cannot be reached")
        valkey.start()
    else:
        valkey.command("FLUSHALL")
    await reached(lambda: "was emptied" in str(following.problem))
    assert ids(following) == {"a", "b"}
    await changed(valkey, lambda store: store.put([Item("b", {})]))
    await reached(lambda: "first put has not ended" in str(following.problem))
    assert ids(following) == {"a", "b"}
    await changed(valkey, whole_with(Item("c", {})))
    await reached(lambda: following.problem is None and ids(following) == {"b", "c"})


async def test_a_large_loss_is_told_of(
    following: Follower, valkey: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The store may be made anew, and be whole with few items."""
    await changed(valkey, lambda store: store.put(Item(number, {}) for number in range(9)))
    await reached(lambda: len(following.catalogue) == 9)
    valkey.command("FLUSHALL")
    await changed(valkey, whole_with(Item(0, {})))
    await reached(lambda: ids(following) == {"0"})
    assert "the store has 1 items of what were 9: is it whole?" in caplog.text


async def test_an_item_that_cannot_be_read_is_refused(
    following: Follower, valkey: RedisServer, tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the first read and as a change; it holds nothing up, and the log names it."""
    damaged = {":1": "garbage", ":2": "t{", ":x": "i{}", "4": "t{}"}
    for number, (field, value) in enumerate(damaged.items(), 1):
        valkey.command("HSET", ITEMS, field, value)
        valkey.command("XADD", CHANGES, f"{number}-1", "id", field)
    await changed(valkey, lambda store: store.put([Item("whole", {})]))
    await reached(lambda: ids(following) == {"whole"})
    refused = following.catalogue.refused
    assert len(refused) == len(damaged)
    assert all("the stored value is damaged" in reason for reason in refused.values())
    assert "item 'x' is left out: the stored value is damaged" in caplog.text
    assert following.problem is None
    spec = Bundle.open(tiny_bundle).spec
    again = Follower(valkey.url, spec, following._candidate, None)
    await again.fill()
    assert ids(again) == {"whole"}
    assert again.catalogue.refused == refused
    await again.close()


@pytest.mark.slow
async def test_a_failover_that_went_backwards_is_read_again(
    following: Follower, valkey: RedisServer, proxy: Proxy
) -> None:
    """The replica has as many changes, and others; what it lacks is not served any longer."""
    valkey.command("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    await changed(valkey, lambda store: store.put([Item("a", {})]))
    with RedisServer() as replica:
        replica.command("REPLICAOF", "127.0.0.1", valkey.port)
        await reached(lambda: replica.command("XLEN", CHANGES) == ":2")
        replica.command("REPLICAOF", "NO", "ONE")
        await changed(valkey, lambda store: store.put([Item("lost", {})]))
        await reached(lambda: ids(following) == {"a", "lost"})
        await changed(replica, lambda store: store.put([Item("new", {})]))
        proxy.target = replica.port
        proxy.cut()
        await reached(lambda: ids(following) == {"a", "new"})
        await changed(replica, lambda store: store.put([Item("newer", {})]))
        await reached(lambda: ids(following) == {"a", "new", "newer"})
        await reached(lambda: following.problem is None)


async def test_a_follower_cut_off_for_longer_than_the_stream_reads_again(
    following: Follower, valkey: RedisServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion that is no longer in the stream is not missed."""
    monkeypatch.setattr(redis, "KEPT_CHANGES", 100)
    await changed(valkey, lambda store: store.put(Item(n, {}) for n in range(50)))
    await reached(lambda: len(following.catalogue) == 50)
    away, proxy.target = proxy.target, 1
    proxy.cut()
    await reached(lambda: following.problem == "Redis cannot be reached")
    await changed(valkey, lambda store: store.delete(list(range(40))))
    await changed(valkey, lambda store: store.put(Item("x", {"price": n}) for n in range(1_000)))
    assert len(following.catalogue) == 50
    proxy.target = away
    await reached(lambda: ids(following) == {*map(str, range(40, 50)), "x"})
    await reached(lambda: following.problem is None)
