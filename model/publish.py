"""A bundle's vocabulary into Redis, where services find it; and out of it again.

Publishing is one pass repeated until it finds nothing to do: read every bucket, compare it with
what it should hold, write those that differ. So it may be interrupted and repeated at any
time, and what the last pass has read back is exactly what the bundle holds. Only then does the
register say that the vocabulary is complete.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.bundle.bundle import Bundle
from app.errors import CtrError
from app.features.vocabulary import Integers, Texts
from app.remote.link import Command, ErrorReply, Link, Reply
from app.remote.redis_layout import REGISTER, SENTINEL, Entry, SlotKeys, in_use, published_slots
from model.progress import progress_bar

SECONDS = 30.0
"""Longest time of a publisher's round trip."""
CHUNK_BUCKETS = 200
CHUNK_KEYS = 5_000
MAX_PASSES = 3
ABANDONED = timedelta(days=1)
"""Age at which a publishing that never ended is taken for an abandoned one."""


class PublishError(CtrError):
    """A vocabulary that could not be published or removed."""


@dataclass(frozen=True, slots=True)
class ListedVocabulary:
    """A vocabulary in the register, and whether a service says that it uses it."""

    entry: Entry
    in_use: bool


@dataclass(frozen=True, slots=True)
class Published:
    """The result of publishing: ``written`` buckets were absent or differed."""

    entry: Entry
    written: int
    warnings: tuple[str, ...]


async def publish(link: Link, bundle: Bundle, progress: bool = True) -> Published:
    """Write a bundle's vocabulary, read it back, then make it visible.

    Raises:
        PublishError: Redis refuses to write, loses what was written, or the vocabulary was
            removed meanwhile.
        LinkError: Redis does not answer.
    """
    identity = bundle.manifest.vocabulary_hash
    slots = published_slots(bundle.spec, bundle.vocabulary, identity)
    arranged = [_arrange(keys, _part(bundle, name)) for name, keys in slots.items()]
    values = sum(len(slot.order) for slot in arranged)
    warnings = await _eviction(link)
    found = await _entry(link, identity)
    entry = Entry(
        identity,
        "publishing",
        values,
        {keys.number: keys.buckets for keys in slots.values()},
        bundle.version,
        datetime.now(UTC).isoformat(timespec="seconds"),
        uuid4().hex,
    )
    visible = found is not None and found.state == "complete"
    if not visible:
        await _ask(link, [("HSET", REGISTER, identity, entry.encode())])
    written = await _converge(link, arranged, values, progress)
    if not visible:
        now = await _entry(link, identity)
        if now is None or (now.writer != entry.writer and now.state != "complete"):
            raise PublishError(
                "removed or started again by somebody else in the meantime; repeat the command"
            )
        entry = msgspec.structs.replace(entry, state="complete")
        await _ask(link, [("HSET", REGISTER, identity, entry.encode())])
    return Published(found if found is not None and visible else entry, written, warnings)


async def listed(link: Link) -> list[ListedVocabulary]:
    """The vocabularies in the register, those published last first.

    Raises:
        LinkError: Redis does not answer.
        RegisterError: an entry cannot be read.
    """
    [flat] = await _ask(link, [("HGETALL", REGISTER)])
    entries = [Entry.decode(content) for content in flat[1::2]]
    used = await _ask(link, [("EXISTS", in_use(entry.hash)) for entry in entries])
    found = [ListedVocabulary(entry, bool(mark)) for entry, mark in zip(entries, used, strict=True)]
    return sorted(found, key=lambda each: each.entry.published, reverse=True)


async def unpublish(link: Link, name: str, force: bool = False) -> Entry:
    """Remove the vocabulary whose hash starts with ``name``: first its entry, then its keys.

    Raises:
        PublishError: there is not exactly one, or a service uses it and ``force`` is not given.
        LinkError: Redis does not answer.
    """
    if not re.fullmatch(r"[0-9a-f]{8,64}", name):
        raise PublishError("name the vocabulary by at least 8 digits of its hash")
    found = [each for each in await listed(link) if each.entry.hash.startswith(name)]
    if len(found) != 1:
        raise PublishError(f"{len(found)} published vocabularies start with {name}")
    if found[0].in_use and not force:
        raise PublishError(f"a service uses {name}; --force removes it all the same")
    await _remove(link, found[0].entry)
    return found[0].entry


async def prune(link: Link, keep: int) -> list[Entry]:
    """Remove all but the ``keep`` vocabularies published last; never one that is in use.

    Publishings that never ended go too once they are a day old.

    Raises:
        LinkError: Redis does not answer.
    """
    found = await listed(link)
    complete = [each for each in found if each.entry.state == "complete"]
    abandoned = [
        each
        for each in found
        if each.entry.state == "publishing"
        and datetime.now(UTC) - datetime.fromisoformat(each.entry.published) > ABANDONED
    ]
    removed = []
    for each in complete[keep:] + abandoned:
        # Asked once more right before: a service may have taken it up while others were removed.
        [mark] = await _ask(link, [("EXISTS", in_use(each.entry.hash))])
        if not mark:
            await _remove(link, each.entry)
            removed.append(each.entry)
    return removed


@dataclass(frozen=True, slots=True)
class _Arranged:
    """A slot's values by bucket: bucket b holds those at order[bounds[b]:bounds[b+1]]."""

    keys: SlotKeys
    part: Integers | Texts
    order: NDArray[np.int32]
    bounds: NDArray[np.int64]

    def contents(self, start: int, stop: int) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
        """Yield the key and the content of each bucket from ``start`` to before ``stop``."""
        first, last = self.bounds[start], self.bounds[stop]
        places = self.order[first:last].astype(np.int64)
        texts, rows = self.part.texts(places), self.part.rows[places].tolist()
        for bucket in range(start, stop):
            low, high = self.bounds[bucket] - first, self.bounds[bucket + 1] - first
            content = {SENTINEL: self.keys.sentinel(bucket)}
            content.update(
                zip(texts[low:high], [b"%d" % row for row in rows[low:high]], strict=True)
            )
            yield self.keys.name(bucket), content


def _part(bundle: Bundle, name: str) -> Integers | Texts:
    part = bundle.vocabulary.slots[name]
    assert isinstance(part, Integers | Texts)
    return part


def _arrange(keys: SlotKeys, part: Integers | Texts) -> _Arranged:
    count = len(part.rows)
    sums = np.empty(count, np.uint32)
    for start in range(0, count, 100_000):
        places = np.arange(start, min(start + 100_000, count))
        sums[places] = np.fromiter(map(crc32, part.texts(places)), np.uint32, len(places))
    buckets = sums % np.uint32(keys.buckets)
    order = np.argsort(buckets, kind="stable").astype(np.int32)
    bounds = np.searchsorted(buckets[order], np.arange(keys.buckets + 1))
    return _Arranged(keys, part, order, bounds)


async def _converge(link: Link, slots: Sequence[_Arranged], values: int, progress: bool) -> int:
    """Repeat the pass until it has nothing to write; return how many buckets were written."""
    written = 0
    for attempt in range(MAX_PASSES):
        differed = 0
        what = "checking" if attempt else "writing"
        with progress_bar(what, values, "values", progress) as shown:
            for slot in slots:
                for start in range(0, slot.keys.buckets, CHUNK_BUCKETS):
                    stop = min(start + CHUNK_BUCKETS, slot.keys.buckets)
                    wanted = list(slot.contents(start, stop))
                    differed += await _write_differing(link, wanted)
                    shown.update(sum(len(content) - 1 for _, content in wanted))
        written += differed
        if not differed:
            return written
    raise PublishError("Redis does not return what was written; does it evict keys?")


async def _write_differing(link: Link, wanted: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> int:
    """Write the buckets that hold something else; return how many did."""
    found = await _ask(link, [("HGETALL", name) for name, _ in wanted], keep_refusals=True)
    commands: list[Command] = []
    differing = 0
    for (name, content), flat in zip(wanted, found, strict=True):
        # A key of another type is refused here; it holds something else, too.
        if isinstance(flat, list) and dict(zip(flat[::2], flat[1::2], strict=True)) == content:
            continue
        differing += 1
        if flat:
            commands.append(("UNLINK", name))
        commands.append(("HSET", name, *(word for pair in content.items() for word in pair)))
    if commands:
        await _ask(link, commands)
    return differing


async def _remove(link: Link, entry: Entry) -> None:
    hide: Command = ("HDEL", REGISTER, entry.hash)
    await _ask(link, [hide])
    keys = list(entry.names())
    for start in range(0, len(keys), CHUNK_KEYS):
        await _ask(link, [("UNLINK", key) for key in keys[start : start + CHUNK_KEYS]])
    # Once more, in case a publishing ended between the two.
    await _ask(link, [hide])


async def _entry(link: Link, vocabulary_hash: str) -> Entry | None:
    [content] = await _ask(link, [("HGET", REGISTER, vocabulary_hash)])
    return None if content is None else Entry.decode(content)


async def _eviction(link: Link) -> tuple[str, ...]:
    """Warn of servers that throw keys away when memory is short."""
    policies = set()
    for reply in await link.ask_all(("INFO", "memory"), SECONDS):
        if isinstance(reply, ErrorReply):
            return (f"the eviction policy could not be read: {reply}",)
        found = re.search(rb"maxmemory_policy:(\S+)", reply)
        policies.add(found[1].decode() if found else "unknown")
    return tuple(
        f"maxmemory-policy is {policy}: set noeviction, or values may be thrown away, and"
        " services fall back while they are"
        for policy in sorted(policies - {"noeviction"})
    )


async def _ask(link: Link, commands: Sequence[Command], keep_refusals: bool = False) -> list[Reply]:
    if not commands:
        return []
    replies = await link.ask(commands, SECONDS)
    for reply in replies:
        if isinstance(reply, ErrorReply) and not keep_refusals:
            raise PublishError(f"Redis refuses: {reply}")
    return replies
