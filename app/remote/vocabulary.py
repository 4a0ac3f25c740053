"""A vocabulary read through Redis: a bounded memory here, the whole of it there.

Between two answers for the same value nothing can have changed, since keys contain the
vocabulary's hash. So what was once found, or found to be absent, is remembered without a limit
of time; and the bundle's own copy on disk, asked while Redis does not answer, gives the same rows.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, Literal

import numpy as np

from app.bundle.bundle import Bundle
from app.errors import LinkError, Problem, VocabularyUnavailable
from app.features.encoder import Encoder, Fetched
from app.features.field_encoders import Misses
from app.features.graph_inputs import Batch
from app.features.layout import Slot
from app.features.vocabulary import Integers, Texts
from app.metrics.registry import RemoteMetrics
from app.remote.breaker import Breaker
from app.remote.cache import Cache
from app.remote.gatherer import ROUND_KEYS, ROUNDS_AT_ONCE, Answers, Gatherer, Miss
from app.remote.link import Command, ErrorReply, Link, Reply
from app.remote.redis_layout import (
    IN_USE_SECONDS,
    REGISTER,
    SENTINEL,
    Entry,
    RegisterError,
    SlotKeys,
    in_use,
    published_slots,
    text_of,
)

Fallback = Literal["snapshot", "oov", "reject"]

CONNECTIONS = ROUNDS_AT_ONCE + 1
"""One for each round trip, and one for the probe."""
PROBE_SECONDS = 1.0
"""How long a probe may take: it holds up nobody, and may have to connect."""
PART = ROUND_KEYS * ROUNDS_AT_ONCE
"""Misses of one request that are asked for at a time, so that others get their turn."""
SNAPSHOT_PART = 256
WITNESSES = 64

log = logging.getLogger(__name__)


class RemoteVocabulary:
    """Rows of values, out of Redis.

    Its ``cache.tables`` are for an encoder; the values that it misses there are for
    :meth:`fetch`. Call :meth:`learn` and :meth:`start` before the first, :meth:`close` after
    the last.
    """

    def __init__(
        self,
        bundle: Bundle,
        link: Link,
        fallback: Fallback,
        cache_entries: int,
        seconds: float,
        metrics: RemoteMetrics,
    ) -> None:
        self.hash = bundle.manifest.vocabulary_hash
        self.slots = published_slots(bundle.spec, bundle.vocabulary, self.hash)
        self.fallback = fallback
        self.cache = Cache(self.slots, cache_entries)
        self.metrics = metrics
        self.breaker = Breaker(self._probe)
        self._snapshot = {name: _part(bundle, name) for name in self.slots}
        self._longest = {name: part.longest for name, part in self._snapshot.items()}
        layout = bundle.vocabulary.layout
        self._context_slots = self._count(layout.context + layout.context_lists)
        self._candidate_slots = self._count(layout.candidate + layout.candidate_lists)
        self._link = link
        self._seconds = seconds
        self._gatherer = Gatherer(self._ask)
        self._witnesses: dict[Miss, int] = {}
        self._may_mark = True
        self._watching: asyncio.Task[None] | None = None

    def _count(self, slots: Sequence[Slot]) -> int:
        return sum(slot.name in self.slots for slot in slots)

    def count_lookups(self, batch: Batch) -> None:
        """Count the look-ups that were behind a batch: one for each context or row and slot."""
        contexts = len(batch.context) * self._context_slots
        candidates = len(batch.candidate) * self._candidate_slots
        self.metrics.counts.add("lookups", contexts + candidates)

    def learn(self, bundle: Bundle, encoder: Encoder) -> None:
        """Remember the rows of the golden requests' values, out of the bundle.

        Redis must give the same rows before anything else is believed of it.
        """
        misses: Misses = {}
        for example in bundle.examples:
            encoder.context.row(example.context, misses)
            for candidate in example.candidates:
                encoder.candidate.row(candidate, misses)
        rows = self._look_up(misses)
        self._remember(rows)
        self._witnesses = dict(list(rows.items())[:WITNESSES])

    def start(self) -> None:
        """Begin to watch Redis."""
        self._watching = asyncio.create_task(self.breaker.watch())

    async def close(self) -> None:
        """Let go of Redis; who still waits for it falls back."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        self.breaker.close()
        await self._gatherer.close()
        await self._link.close()

    @property
    def problem(self) -> str | None:
        """What is wrong with Redis, as callers may know it; the log has the detail."""
        return self.breaker.problem.shown if self.breaker.problem else None

    async def fetch(self, misses: Misses, deadline: float) -> Fetched:
        """Return the row of every miss, by its place.

        Redis has a bounded time for it, and never beyond ``deadline`` (on the loop's clock).

        Raises:
            VocabularyUnavailable: Redis did not answer, and nothing may stand in for it.
        """
        loop = asyncio.get_running_loop()
        end = min(loop.time() + self._seconds, deadline)
        self.metrics.counts.add("misses", len(misses))
        rows = np.empty(len(misses), np.int32)
        degraded = False
        for part in _parts(misses, PART):
            found, wanted = self._settled(part)
            if wanted and self.breaker.closed and (left := end - loop.time()) > 0:
                answers = await self._gatherer.fetch(wanted, left)
                found |= answers.rows
                for miss in answers.bad:
                    found[miss] = self.slots[miss[0]].slot.oov
                    degraded = True
                wanted = [miss for miss in wanted if miss not in found]
            if wanted:
                degraded |= self.fallback == "oov"
                found |= await self._fall_back(wanted)
            rows[[misses[miss] for miss in part]] = [found[miss] for miss in part]
        evicted = self.cache.evicted
        self.cache.trim()
        self.metrics.counts.add("evicted", self.cache.evicted - evicted)
        return Fetched(rows, degraded)

    def _settled(self, misses: Sequence[Miss]) -> tuple[dict[Miss, int], list[Miss]]:
        """Split misses into those that are known by now and those to ask for."""
        found: dict[Miss, int] = {}
        wanted = []
        for miss in misses:
            slot, key = miss
            row = self.cache.tables[slot].get(key)
            if row is None and isinstance(key, str) and len(key) > self._longest[slot]:
                # Longer than any that is known: no need to send it, and none to keep it.
                row = self.slots[slot].slot.oov
            if row is None:
                wanted.append(miss)
            else:
                found[miss] = row
        return found, wanted

    async def _fall_back(self, misses: Sequence[Miss]) -> dict[Miss, int]:
        self.metrics.fallbacks.add(self.fallback, len(misses))
        if self.fallback == "reject":
            why = self.problem or "Redis did not answer for them"
            raise VocabularyUnavailable(f"values cannot be looked up: {why}")
        if self.fallback == "oov":
            return {miss: self.slots[miss[0]].slot.oov for miss in misses}
        found: dict[Miss, int] = {}
        for part in _parts(misses, SNAPSHOT_PART):
            found |= self._look_up(part)
            await asyncio.sleep(0)
        self._remember(found)
        return found

    def _look_up(self, misses: Iterable[Miss]) -> dict[Miss, int]:
        """Look misses up in the bundle's own copy."""
        rows = {}
        for miss in misses:
            slot, key = miss
            row = self._snapshot[slot].find(key)
            rows[miss] = self.slots[slot].slot.oov if row is None else row
        return rows

    def _remember(self, rows: Mapping[Miss, int]) -> None:
        tables = self.cache.tables
        for (slot, key), row in rows.items():
            tables[slot][key] = row

    async def _ask(self, misses: Sequence[Miss]) -> Answers:
        """One round trip; what goes wrong is counted, and opens the breaker."""
        if not self.breaker.closed:
            return Answers({}, set())
        start = perf_counter()
        self.metrics.counts.add("round_trips")
        try:
            answers = await self._look_up_remotely(misses, self._seconds)
        except LinkError as error:
            self.metrics.errors.add(error.reason)
            self.breaker.trip(error.problem)
            return Answers({}, set())
        self.metrics.seconds.observe(perf_counter() - start)
        if len(answers.rows) + len(answers.bad) == len(misses):
            self.breaker.succeed()
        else:
            self.breaker.suspect()
        self._remember(answers.rows)
        absences = sum(row == self.slots[slot].slot.oov for (slot, _), row in answers.rows.items())
        self.metrics.counts.add("absences", absences)
        return answers

    async def _look_up_remotely(self, misses: Sequence[Miss], seconds: float) -> Answers:
        questions: list[tuple[SlotKeys, int]] = []
        commands: list[Command] = []
        for slot, key in misses:
            keys, text = self.slots[slot], text_of(key)
            bucket = keys.of(text)
            questions.append((keys, bucket))
            commands.append(("HMGET", keys.name(bucket), SENTINEL, text))
        answers = Answers({}, set())
        replies = await self._link.ask(commands, seconds)
        for miss, (keys, bucket), reply in zip(misses, questions, replies, strict=True):
            if isinstance(reply, ErrorReply):
                self.metrics.errors.add("refused")
                continue
            sentinel, content = reply
            if sentinel != keys.sentinel(bucket):
                # An empty answer without it is no absence: the bucket is not there.
                self.metrics.errors.add("sentinel")
            elif content is None:
                answers.rows[miss] = keys.slot.oov
            elif (row := keys.row(content)) is not None:
                answers.rows[miss] = row
            else:
                self.metrics.errors.add("value")
                answers.bad.add(miss)
        return answers

    async def _probe(self) -> Problem | None:
        """Ask whether the vocabulary is there; say what is wrong, or None.

        It also marks the vocabulary as in use, which keeps it from being pruned.
        """
        buckets = [(keys, random.randrange(keys.buckets)) for keys in self.slots.values()]
        commands: list[Command] = [("HGET", REGISTER, self.hash)]
        commands += [("HMGET", keys.name(bucket), SENTINEL) for keys, bucket in buckets]
        if self._may_mark:
            who = f"{socket.gethostname()}:{os.getpid()}"
            commands.append(("SET", in_use(self.hash), who, "EX", IN_USE_SECONDS))
        try:
            entry, *sentinels = await self._link.ask(commands, PROBE_SECONDS)
            problem = self._wrong_entry(entry)
            if problem is not None:
                return problem
            if self._may_mark and isinstance(refused := sentinels.pop(), ErrorReply):
                log.warning("the vocabulary cannot be marked as in use: %s", refused)
                self._may_mark = False
            for (keys, bucket), reply in zip(buckets, sentinels, strict=True):
                if isinstance(reply, ErrorReply):
                    return reply.problem
                if reply != [keys.sentinel(bucket)]:
                    return Problem(f"values of {keys.slot.name!r} are not all there any more")
            if not self.breaker.closed:
                return await self._wrong_witness()
        except LinkError as error:
            self.metrics.errors.add(error.reason)
            return error.problem
        return None

    def _wrong_entry(self, raw: Reply) -> Problem | None:
        if isinstance(raw, ErrorReply):
            return raw.problem
        if raw is None:
            return Problem(f"vocabulary {self.hash[:12]} is not published")
        try:
            entry = Entry.decode(raw)
        except RegisterError as error:
            return Problem("the register of vocabularies cannot be read", str(error))
        if entry.state != "complete":
            return Problem(f"vocabulary {self.hash[:12]} is still being published")
        if entry.buckets != {keys.number: keys.buckets for keys in self.slots.values()}:
            return Problem(f"vocabulary {self.hash[:12]} is published in another layout")
        return None

    async def _wrong_witness(self) -> Problem | None:
        """Compare what Redis has with what the bundle has, for values that are known."""
        answers = await self._look_up_remotely(list(self._witnesses), PROBE_SECONDS)
        for miss, row in self._witnesses.items():
            if answers.rows.get(miss) != row:
                return Problem(f"Redis has another row than the bundle for a value of {miss[0]!r}")
        return None


def _part(bundle: Bundle, name: str) -> Integers | Texts:
    part = bundle.vocabulary.slots[name]
    assert isinstance(part, Integers | Texts)
    return part


def _parts(misses: Iterable[Any], size: int) -> Iterator[list[Any]]:
    every = list(misses)
    for start in range(0, len(every), size):
        yield every[start : start + size]
