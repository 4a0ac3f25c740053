"""Profiles of a real store, looked up within bounds."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import pytest

from app.bundle.bundle import Bundle
from app.features.encoder import Encoder
from app.metrics.profiles import ProfileMetrics
from app.off_loop import run_off_loop
from app.profiles.stored import StoredProfiles
from app.store.opening import open_store
from app.store.redis_connection import PROFILES as STORED_PROFILES
from app.store.sqlite import SqliteStore
from app.store.store import Item
from app.workers.shared_numbers import SharedNumbers
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.anyio
LATER = 1e12
SECONDS = 0.2
"""Time that a silent store has."""
PATIENCE = 60.0
"""Time that a store has which answers: it may be late on a busy machine."""
PROFILES = {
    1: {"country": "DE", "age": 30},
    2: {"age": "thirty", "country": "FR", "vip": True, "item_id": 5},
}


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store.db"
    store = SqliteStore(path, create=True)
    store.profiles.put(Item(*each) for each in PROFILES.items())
    store.close()
    return path


@pytest.fixture
async def metrics() -> ProfileMetrics:
    return ProfileMetrics(SharedNumbers())


@pytest.fixture
async def profiles(
    path: Path, bundle: Bundle, metrics: ProfileMetrics
) -> AsyncIterator[StoredProfiles]:
    """The profiles of the store, reached."""
    context = Encoder(bundle.spec, bundle.vocabulary).context
    url = f"sqlite://{path}"
    made = StoredProfiles(url, "user_id", bundle.spec, context, PATIENCE, 60.0, metrics)
    await made.reach()
    yield made
    await made.close()


async def fetch(profiles: StoredProfiles, *keys: str) -> dict[str, Any]:
    found = await profiles.fetch(keys, LATER)
    return {key: None if each is None else msgspec.json.decode(each) for key, each in found.items()}


async def reached(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_profiles_are_found_and_remembered(profiles: StoredProfiles, path: Path) -> None:
    """Absences too. What the bundle's spec does not have, or refuses, counts as absent."""
    expected = {"1": PROFILES[1], "2": {"country": "FR"}, "3": None}
    assert await fetch(profiles, "1", "2", "3") == expected
    store = SqliteStore(path)
    store.profiles.put([Item(1, {"age": 31})])
    store.close()
    assert profiles.remembered(["1", "3", "4"]) == {
        "1": msgspec.json.encode(PROFILES[1]), "3": None
    }  # fmt: skip
    assert profiles.problem is None


async def test_requests_of_one_turn_share_a_round_trip(
    profiles: StoredProfiles, metrics: ProfileMetrics
) -> None:
    """However many there are."""
    found = await asyncio.gather(*(fetch(profiles, str(n % 5)) for n in range(50)))
    assert found[:5] == [
        {"0": None}, {"1": PROFILES[1]}, {"2": {"country": "FR"}}, {"3": None}, {"4": None}
    ]  # fmt: skip
    assert dict(metrics.seconds.cumulative()[0])["+Inf"] == 1


async def test_a_silent_store_is_waited_for_once(
    profiles: StoredProfiles, metrics: ProfileMetrics
) -> None:
    """Its first request gives up in time, the next ones do not wait; then it is asked again."""
    assert profiles._store is not None
    profiles._seconds = SECONDS
    with profiles._store._file.turn():  # type: ignore[attr-defined]
        began = perf_counter()
        assert await fetch(profiles, "1") == {}
        assert perf_counter() - began >= SECONDS * 0.9
        await reached(lambda: not profiles.breaker.closed)
        assert await profiles.fetch(["2"], LATER) == {}
        assert metrics.errors["timeout"] == 1
        await asyncio.sleep(2 * SECONDS)
        assert await profiles.fetch(["2"], LATER) == {}
        assert metrics.errors["timeout"] == 1
        assert profiles.problem is not None
    profiles._seconds = PATIENCE
    await reached(lambda: profiles.breaker.closed)
    assert await fetch(profiles, "1") == {"1": PROFILES[1]}
    assert profiles.problem is None


async def test_a_store_that_is_gone_has_no_absent_profiles(
    profiles: StoredProfiles, path: Path, metrics: ProfileMetrics
) -> None:
    """It is told, and what is remembered stays; once it is there again it is asked again."""
    assert await fetch(profiles, "1") == {"1": PROFILES[1]}
    kept = path.with_suffix(".copy")
    shutil.copy(path, kept)
    os.unlink(path)
    assert await fetch(profiles, "2") == {}
    assert metrics.errors["failed"] == 1
    assert profiles.remembered(["1"])
    shutil.move(kept, path)
    await reached(lambda: profiles.breaker.closed)
    assert await fetch(profiles, "2") == {"2": {"country": "FR"}}


async def test_no_request_waits_past_its_deadline(profiles: StoredProfiles) -> None:
    """The other requests of the round still get their answer."""
    now = asyncio.get_running_loop().time()
    assert profiles._store is not None
    with profiles._store._file.turn():  # type: ignore[attr-defined]
        late = asyncio.create_task(profiles.fetch(["1"], LATER))
        assert await profiles.fetch(["1"], now + 0.01) == {}
    assert list(await late) == ["1"]


async def test_a_redis_that_restarted_is_asked_over_a_new_connection(
    bundle: Bundle, metrics: ProfileMetrics, valkey: RedisServer
) -> None:
    """The first request after it gets its profile; one that is damaged counts as absent."""
    store = await run_off_loop(lambda: open_store(valkey.url, create=True))
    await run_off_loop(lambda: store.profiles.put(Item(*each) for each in PROFILES.items()))
    await run_off_loop(store.close)
    valkey.command("HSET", STORED_PROFILES, ":9", "garbage")
    context = Encoder(bundle.spec, bundle.vocabulary).context
    made = StoredProfiles(valkey.url, "user_id", bundle.spec, context, PATIENCE, 0.0, metrics)
    await made.reach()
    try:
        for _ in range(2):
            assert await fetch(made, "1", "9") == {"1": PROFILES[1], "9": None}
            valkey.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert await fetch(made, "1") == {"1": PROFILES[1]}
        assert metrics.errors["failed"] + metrics.errors["timeout"] == 0
    finally:
        await made.close()


async def test_a_redis_that_falls_silent_is_waited_for_once(
    bundle: Bundle, metrics: ProfileMetrics, valkey: RedisServer
) -> None:
    """As any store: bounded in time, told, and asked again once it answers; killed, too."""
    store = await run_off_loop(lambda: open_store(valkey.url, create=True))
    await run_off_loop(lambda: store.profiles.put(Item(*each) for each in PROFILES.items()))
    await run_off_loop(store.close)
    context = Encoder(bundle.spec, bundle.vocabulary).context
    made = StoredProfiles(valkey.url, "user_id", bundle.spec, context, PATIENCE, 0.0, metrics)
    await made.reach()
    try:
        assert await fetch(made, "1", "2", "3") == {
            "1": PROFILES[1], "2": {"country": "FR"}, "3": None
        }  # fmt: skip
        made._seconds = SECONDS
        valkey.freeze()
        began = perf_counter()
        assert await fetch(made, "1") == {}
        assert perf_counter() - began < 10 * SECONDS
        await reached(lambda: not made.breaker.closed)
        valkey.thaw()
        made._seconds = PATIENCE
        await reached(lambda: made.breaker.closed)
        assert await fetch(made, "1") == {"1": PROFILES[1]}
        await run_off_loop(valkey.stop)
        assert await fetch(made, "1") == {}
        assert not made.breaker.closed
        assert metrics.errors["failed"] + metrics.errors["timeout"] == 2
    finally:
        await made.close()
