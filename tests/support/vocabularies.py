"""Bundles' vocabularies in a real Redis, as tests put them there and look at them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.bundle.bundle import Bundle
from app.features.encoder import Encoder
from app.features.vocabulary import Integers, Texts
from app.metrics.registry import RemoteMetrics
from app.remote.address import Address
from app.remote.link import Link, open_link
from app.remote.redis_layout import SlotKeys, published_slots, text_of
from app.remote.vocabulary import CONNECTIONS, Fallback, RemoteVocabulary
from app.workers.shared_numbers import SharedNumbers
from model.publish import Published, publish

Rows = dict[int | str, int]


@asynccontextmanager
async def linked(url: str, connections: int = CONNECTIONS) -> AsyncIterator[Link]:
    """A link that is closed in the end."""
    link = open_link(Address.parse(url), connections)
    try:
        yield link
    finally:
        await link.close()


async def publish_to(url: str, path: Path) -> Published:
    """Publish a bundle's vocabulary."""
    async with linked(url) as link:
        return await publish(link, Bundle.open(path), progress=False)


def publish_now(url: str, path: Path) -> Published:
    """The same, for tests without an event loop."""
    return asyncio.run(publish_to(url, path))


def slots_of(bundle: Bundle) -> dict[str, SlotKeys]:
    """Where the slots of a bundle are published."""
    return published_slots(bundle.spec, bundle.vocabulary, bundle.manifest.vocabulary_hash)


def rows_of(bundle: Bundle, slot: str) -> Rows:
    """Every value of a slot with its row, as memory mode has them."""
    part = bundle.vocabulary.slots[slot]
    assert isinstance(part, Integers | Texts)
    return part.lookup()


def place_of(bundle: Bundle, slot: str, key: int | str) -> tuple[bytes, bytes]:
    """The Redis key and the field that hold a value."""
    keys, text = slots_of(bundle)[slot], text_of(key)
    return keys.name(keys.of(text)), text


@asynccontextmanager
async def remote_vocabulary(
    bundle: Bundle,
    url: str,
    fallback: Fallback = "oov",
    cache_entries: int = 100_000,
    seconds: float = 30.0,
    wait: bool = True,
) -> AsyncIterator[RemoteVocabulary]:
    """A vocabulary as a service reads it; ``wait`` until it has been found in Redis."""
    link = open_link(Address.parse(url), CONNECTIONS)
    remote = RemoteVocabulary(
        bundle, link, fallback, cache_entries, seconds, RemoteMetrics(SharedNumbers())
    )
    encoder = Encoder(bundle.spec, bundle.vocabulary, remote.cache.tables)
    remote.learn(bundle, encoder)
    for table in remote.cache.tables.values():
        table.clear()
    remote.start()
    try:
        if wait:
            async with asyncio.timeout(30):
                await remote.breaker.reached()
        yield remote
    finally:
        await remote.close()
