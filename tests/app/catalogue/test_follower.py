"""A catalogue follows its store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from app.bundle.bundle import Bundle
from app.catalogue import follower
from app.catalogue.follower import LOADING, Follower
from app.features.encoder import Encoder
from app.store.opening import open_store
from app.store.sqlite import SqliteStore
from app.store.store import Item
from tests.support.redis_server import RedisServer
from tests.support.samples import Sample, candidate_of
from tests.support.vocabularies import publish_to, remote_vocabulary

pytestmark = pytest.mark.anyio
UNSEEN = 987_654_321_987


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> Encoder:
    return Encoder(bundle.spec, bundle.vocabulary)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def following(path: Path, bundle: Bundle, encoder: Encoder) -> AsyncIterator[Follower]:
    """A follower of an empty store."""
    SqliteStore(path, create=True).close()
    made = Follower(f"sqlite://{path}", bundle.spec, encoder.candidate, None)
    await made.fill()
    made.start()
    yield made
    await made.close()


async def reached(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def items_of(sample: Sample, count: int) -> list[Item]:
    return [Item(number, candidate_of(row)) for number, row in enumerate(sample.rows[:count])]


async def test_rows_are_those_that_a_request_would_have(
    following: Follower, bundle: Bundle, encoder: Encoder, sample: Sample, path: Path
) -> None:
    """By the first fill and by changes alike, to the bit; an item that goes is gone."""
    items = items_of(sample, 300)
    store = SqliteStore(path)
    store.put(items)
    await reached(lambda: len(following.catalogue) == 300)
    again = Follower(f"sqlite://{path}", bundle.spec, encoder.candidate, None)
    await again.fill()
    for each in (following.catalogue, again.catalogue):
        rows = each.rows(each.find([item.id for item in items]))
        for item, row in zip(items, rows, strict=True):
            assert row.tobytes() == encoder.candidate.row(item.values)
    store.delete([item.id for item in items[::2]])
    await reached(lambda: len(following.catalogue) == 150)
    assert (following.catalogue.find([0, 1]) >= 0).tolist() == [False, True]
    await again.close()
    store.close()


async def test_an_item_that_the_spec_refuses_is_left_out(
    following: Follower, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted, with its reason; what it was before is not served any longer."""
    store = SqliteStore(path)
    store.put([Item("a", {}), Item("b", {})])
    await reached(lambda: len(following.catalogue) == 2)
    store.put([Item("a", {"price": "dear"}), Item("c", {})])
    await reached(lambda: len(following.catalogue.refused) == 1)
    assert following.catalogue.refused == {"a": "price: expected a number, got text"}
    assert "item 'a' is left out: price: expected a number, got text" in caplog.text
    assert set(following.catalogue.ids(following.catalogue.all())) == {"b", "c"}
    store.put([Item("a", {"price": 1})])
    await reached(lambda: len(following.catalogue) == 3)
    assert following.catalogue.refused == {}
    store.close()


@pytest.mark.slow
async def test_the_last_catalogue_serves_while_the_store_is_gone(
    following: Follower, path: Path
) -> None:
    """Another store in its place is read from the beginning."""
    store = SqliteStore(path)
    store.put([Item("a", {}), Item("b", {})])
    await reached(lambda: len(following.catalogue) == 2)
    store.close()
    for file in path.parent.glob("store.db*"):
        file.unlink()
    await reached(lambda: following.problem is not None)
    assert "deleted or replaced" in str(following.problem)
    assert len(following.catalogue) == 2
    await reached(lambda: "there is no store" in str(following.problem))
    other = open_store(f"sqlite://{path}", create=True)
    other.put([Item("b", {}), Item("c", {}), Item("d", {})])
    await reached(lambda: "first put has not ended" in str(following.problem))
    assert len(following.catalogue) == 2
    other.declare_whole()
    await reached(lambda: following.problem is None)
    await reached(lambda: len(following.catalogue) == 3)
    assert set(following.catalogue.ids(following.catalogue.all())) == {"b", "c", "d"}
    other.close()


async def test_a_store_whose_first_load_has_not_ended_is_told_of(
    bundle: Bundle, encoder: Encoder, path: Path
) -> None:
    """A follower that begins meanwhile uses what is there, and says that there is more to come;
    items that come one by one, without a load, are all that there are.
    """
    store = SqliteStore(path, create=True)
    store.put([Item("a", {})])
    made = Follower(f"sqlite://{path}", bundle.spec, encoder.candidate, None)
    await made.fill()
    assert made.problem is None
    await made.close()
    store.begin_load()
    made = Follower(f"sqlite://{path}", bundle.spec, encoder.candidate, None)
    await made.fill()
    assert made.problem == LOADING
    made.start()
    store.put([Item("b", {})])
    await reached(lambda: len(made.catalogue) == 2)
    assert made.problem == LOADING
    store.declare_whole()
    await reached(lambda: made.problem is None)
    store.begin_load()
    assert not store.loading()
    await made.close()
    store.close()


async def test_a_store_that_hangs_is_told_of(
    following: Follower, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And followed again once it answers."""
    monkeypatch.setattr(follower, "HANGING_SECONDS", 0.05)
    held = following._store
    assert isinstance(held, SqliteStore)
    with held._file.turn():
        await reached(lambda: following.problem == "the store does not answer")
    await reached(lambda: following.problem is None)


async def test_values_in_redis_have_their_rows(
    valkey: RedisServer, tiny_bundle: Path, encoder: Encoder, sample: Sample, path: Path
) -> None:
    """Rows are those of a vocabulary in memory; without Redis no item counts as OOV for good."""
    await publish_to(valkey.url, tiny_bundle)
    bundle = Bundle.open(tiny_bundle, mapped=True)
    items = items_of(sample, 50)
    store = open_store(f"sqlite://{path}", create=True)
    store.put(items)
    async with remote_vocabulary(bundle, valkey.url) as remote:
        candidate = Encoder(bundle.spec, bundle.vocabulary, remote.cache.tables).candidate
        made = Follower(f"sqlite://{path}", bundle.spec, candidate, remote)
        await made.fill()
        rows = made.catalogue.rows(made.catalogue.find([item.id for item in items]))
        expected = [encoder.candidate.row(item.values) for item in items]
        assert [row.tobytes() for row in rows] == expected
        made.start()
        valkey.stop()
        store.put([Item("unseen", {"item_id": UNSEEN})])
        await reached(lambda: made.problem is not None)
        assert "Redis does not answer" in str(made.problem)
        assert made.catalogue.find(["unseen"]).tolist() == [-1]
        await made.close()
    store.close()
