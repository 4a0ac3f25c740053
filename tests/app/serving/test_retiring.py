"""A bundle that another one has replaced: kept for its requests, then closed and freed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import AsyncExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from app.serving import swap
from app.serving.state import BundleInUse
from app.serving.swap import MAX_RETIRING, RETIRE_CHECK_SECONDS
from app.store.opening import open_store
from app.store.store import Item
from tests.support.serving_parts import parts, swapper
from tests.support.turns import until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("stored", [False, True])
async def test_a_replaced_bundle_is_freed_without_the_collector(
    bundles: Path, tiny_bundle: Path, tmp_path: Path, stored: bool
) -> None:
    """What is in use is frozen, so nothing of it may be in a cycle; with a catalogue neither."""
    settings: dict[str, str] = {}
    if stored:
        url = f"sqlite://{tmp_path}/store.db"
        with closing(open_store(url, create=True)) as store:
            store.put([Item(f"item{number}", {"price": 1.0}) for number in range(20)])
        settings = {"store": url, "profile_key": "user_id", "item_key": "item_id"}
    async with parts(bundles, deadline_ms=1, **settings) as worker, AsyncExitStack() as undo:
        kept: list[weakref.ref[object]] = []
        for _ in range(2):
            loaded = await worker.loader.load(bundles / tiny_bundle.name)
            await loaded.read_items(undo)
            undo.pop_all()
            await worker.swapper.put_in_use(loaded)
            if not kept:
                in_use = worker.state.in_use
                assert in_use is not None
                things = [loaded.engine, loaded.encoder, in_use.scorer, in_use.batcher]
                if loaded.items is not None and loaded.profiles is not None:
                    things += [loaded.items, loaded.items.catalogue, loaded.profiles]
                kept = [weakref.ref(thing) for thing in things]
                assert len(kept) == (7 if stored else 4)
                del in_use, things
            del loaded
        gc.disable()
        try:
            async with asyncio.timeout(30):
                while any(each() is not None for each in kept):  # noqa: ASYNC110
                    await asyncio.sleep(RETIRE_CHECK_SECONDS)
        except TimeoutError:
            pass
        finally:
            gc.enable()
        assert [type(found).__name__ for each in kept if (found := each()) is not None] == []


async def test_replaced_bundles_are_closed_when_they_are_idle(
    bundles: Path, tiny_bundle: Path
) -> None:
    """However long requests may take: a bundle that has none is closed at once."""
    async with parts(bundles, deadline_ms=3_600_000) as worker:
        for _ in range(6):
            await worker.swapper.wait_for_room()
            loaded = await worker.loader.load(bundles / tiny_bundle.name)
            await worker.swapper.put_in_use(loaded)
            assert len(worker.builder._open) <= 2
        async with asyncio.timeout(30):
            while len(worker.builder._open) > 1:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)


async def test_a_bundle_is_kept_for_its_requests_and_few_are(
    bundles: Path, tiny_bundle: Path
) -> None:
    """A swap waits while two replaced bundles have requests, and goes on when one has none."""
    async with parts(bundles, deadline_ms=3_600_000) as worker:
        held = []
        for _ in range(1 + MAX_RETIRING):
            loaded = await worker.loader.load(bundles / tiny_bundle.name)
            await worker.swapper.put_in_use(loaded)
            assert worker.state.in_use is not None
            held.append(worker.state.in_use.scorer)
            held[-1].reading += 1
        waiting = asyncio.create_task(worker.swapper.wait_for_room())
        # Long enough for several looks at the bundles, which have requests.
        await asyncio.sleep(4 * RETIRE_CHECK_SECONDS)
        assert not waiting.done()
        assert len(worker.builder._open) == 1 + MAX_RETIRING
        held[0].reading -= 1
        async with asyncio.timeout(30):
            await waiting
        assert len(worker.builder._open) == MAX_RETIRING


async def test_a_replaced_bundle_is_closed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the deadline of its requests, idle or not; one that is being closed is in time."""
    monkeypatch.setattr(swap, "RETIRE_SECONDS", 0.02)
    closed: list[object] = []

    async def close(bundle: object) -> None:
        closed.append(bundle)

    made = swapper(builder=SimpleNamespace(close=close))
    busy = cast(BundleInUse, SimpleNamespace(idle=False))
    begun = asyncio.get_running_loop().time()
    made.retire(busy)
    async with asyncio.timeout(30):
        while made._retiring:
            await asyncio.wait(made._retiring)
            await asyncio.sleep(0)
    assert closed == [busy]
    assert asyncio.get_running_loop().time() - begun >= 0.02
    monkeypatch.setattr(swap, "RETIRE_SECONDS", 3_600.0)
    made = swapper(builder=SimpleNamespace(close=close))
    made.retire(busy)
    await asyncio.sleep(0)
    tasks = list(made._retiring)
    await made.close()
    assert all(task.done() for task in tasks)
    assert closed == [busy], "the builder closes what is left"


async def test_room_is_waited_for_until_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that was on trial may be one too many already."""
    monkeypatch.setattr(swap, "RETIRE_CHECK_SECONDS", 0.001)

    async def close(bundle: object) -> None:
        pass

    made = swapper(deadline_seconds=3_600.0, builder=SimpleNamespace(close=close))
    busy = [SimpleNamespace(idle=False) for _ in range(MAX_RETIRING + 1)]
    for each in busy:
        made.retire(cast(BundleInUse, each))
    waiting = asyncio.create_task(made.wait_for_room())
    busy[0].idle = True
    await until(lambda: len(made._retiring) == MAX_RETIRING)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    busy[1].idle = True
    await waiting
    await made.close()


async def test_a_replaced_bundle_is_kept_for_the_deadline_of_its_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not just for what there is beyond it."""
    monkeypatch.setattr(swap, "RETIRE_SECONDS", 0.0)
    monkeypatch.setattr(swap, "RETIRE_CHECK_SECONDS", 0.001)
    closed: list[object] = []

    class Busy:
        looks = 0
        done = False

        @property
        def idle(self) -> bool:
            self.looks += 1
            return self.done

    async def close(bundle: object) -> None:
        closed.append(bundle)

    made = swapper(deadline_seconds=3_600.0, builder=SimpleNamespace(close=close))
    busy = Busy()
    made.retire(cast(BundleInUse, busy))
    await until(lambda: busy.looks > 3 or closed)
    assert closed == []
    busy.done = True
    await until(lambda: closed)
    assert closed == [busy]
