"""A vocabulary in Redis, with a bounded cache in the process.

Keys in Redis contain the vocabulary's hash, so what a key holds never changes. Rows and absences
are therefore cached without a time limit, and the bundle's own copy on disk, which answers while
Redis does not, gives the same rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, Literal

import numpy as np

from app.bundle.bundle import Bundle
from app.errors import LinkError, Problem, VocabularyUnavailable
from app.features.column_encoding import Misses
from app.features.encoder import Encoder, Fetched
from app.features.graph_inputs import Batch
from app.features.layout import Slot
from app.features.vocabulary import Integers, Texts
from app.metrics.registry import RemoteMetrics
from app.remote.breaker import Breaker
from app.remote.cache import Cache
from app.remote.gatherer import ROUND_KEYS, ROUNDS_AT_ONCE, Gatherer
from app.remote.link import Link
from app.remote.lookup import Answers, Lookup, Miss
from app.remote.probe import Probe
from app.remote.redis_layout import published_slots

Fallback = Literal["snapshot", "oov", "reject"]

CONNECTIONS = ROUNDS_AT_ONCE + 1
"""One for each round trip that may be under way, and one for the probe."""
PART = ROUND_KEYS * ROUNDS_AT_ONCE
"""Misses of one request that are asked for at a time, so that other requests get their turn."""
SNAPSHOT_PART = 256
"""Misses that are looked up on disk between two turns of the event loop."""
WITNESSES = 64
"""Values of the golden requests that Redis must know before it is used."""


class RemoteVocabulary:
    """The rows of values, from a cache, from Redis, or from the fallback.

    An encoder works on ``cache.tables``; values that it does not find there are for :meth:`fetch`.
    Call :meth:`learn` and :meth:`start` before the first fetch and :meth:`close` after the last.
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
        self._lookup = Lookup(self.slots, link, metrics.errors)
        self._probe = Probe(self.hash, self.slots, link, self._lookup, metrics.errors)
        self.breaker = Breaker(self._ask_probe)
        parts = {name: _part(bundle, name) for name in self.slots}
        self._snapshot = {name: part.finder() for name, part in parts.items()}
        self._longest = {name: part.longest for name, part in parts.items()}
        layout = bundle.vocabulary.layout
        self._context_slots = self._count(layout.context + layout.context_lists)
        self._candidate_slots = self._count(layout.candidate + layout.candidate_lists)
        self._link = link
        self._seconds = seconds
        self._gatherer: Gatherer[Miss, int | None] = Gatherer(self._ask)
        self._watching: asyncio.Task[None] | None = None

    def _count(self, slots: Sequence[Slot]) -> int:
        return sum(slot.source in self.slots for slot in slots)

    def count_lookups(self, batch: Batch) -> None:
        """Count the look-ups of a batch: one for each slot of each context and row."""
        contexts = len(batch.context) * self._context_slots
        candidates = len(batch.candidate) * self._candidate_slots
        self.metrics.counts.add("lookups", contexts + candidates)

    def learn(self, bundle: Bundle, encoder: Encoder) -> None:
        """Cache the rows of the golden requests' values, from the bundle.

        Redis must give the same rows before it is used.
        """
        misses: Misses = {}
        for example in bundle.examples:
            encoder.context.row(example.context, misses)
            for candidate in example.candidates:
                encoder.candidate.row(candidate, misses)
        rows = self._look_up(misses)
        self._remember(rows)
        self._probe.witnesses = dict(list(rows.items())[:WITNESSES])

    def start(self) -> None:
        """Start probing Redis."""
        self._watching = asyncio.create_task(self.breaker.watch())

    async def close(self) -> None:
        """Close the connections; requests that still wait for Redis use the fallback."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        self.breaker.close()
        await self._gatherer.close()
        await self._link.close()

    @property
    def problem(self) -> str | None:
        """The problem with Redis in words that callers may see; the log has the detail."""
        problem = self.breaker.problem or self._probe.mark.problem
        return problem.shown if problem else None

    @property
    def marked(self) -> bool:
        """True unless Redis refuses the mark that keeps the vocabulary from being pruned."""
        return self._probe.mark.problem is None

    async def fetch(self, misses: Misses, deadline: float) -> Fetched:
        """Return the row of every miss, by its place.

        Redis has a bounded time to answer, at most until ``deadline`` (on the loop's clock).

        Raises:
            VocabularyUnavailable: Redis did not answer, and the fallback is ``reject``.
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
                for miss, row in answers.items():
                    degraded |= row is None
                    found[miss] = self.slots[miss[0]].slot.oov if row is None else row
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
        """Split misses into those that are known by now and those to ask Redis for."""
        found: dict[Miss, int] = {}
        wanted = []
        for miss in misses:
            slot, key = miss
            row = self.cache.tables[slot].get(key)
            if row is None and isinstance(key, str) and len(key) > self._longest[slot]:
                # Longer than every known key, so OOV: it is neither sent nor cached.
                row = self.slots[slot].slot.oov
            if row is None:
                wanted.append(miss)
            else:
                found[miss] = row
        return found, wanted

    async def _fall_back(self, misses: Sequence[Miss]) -> dict[Miss, int]:
        self.metrics.fallbacks.add(self.fallback, len(misses))
        if self.fallback == "reject":
            problem = self.breaker.problem
            why = problem.shown if problem else "Redis did not answer for them"
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
        """Look misses up in the bundle's own copy on disk."""
        rows = {}
        for miss in misses:
            slot, key = miss
            row = self._snapshot[slot](key)
            rows[miss] = self.slots[slot].slot.oov if row is None else row
        return rows

    async def _ask_probe(self) -> Problem | None:
        return await self._probe.run(self.breaker.closed)

    def _remember(self, rows: Mapping[Miss, int]) -> None:
        tables = self.cache.tables
        for (slot, key), row in rows.items():
            tables[slot][key] = row

    async def _ask(self, misses: Sequence[Miss]) -> Answers:
        """Ask Redis in one round trip; a failure is counted and opens the breaker."""
        if not self.breaker.closed:
            return {}
        start = perf_counter()
        self.metrics.counts.add("round_trips")
        try:
            answers = await self._lookup.ask(misses, self._seconds)
        except LinkError as error:
            self.metrics.errors.add(error.reason)
            self.breaker.trip(error.problem)
            return {}
        self.metrics.seconds.observe(perf_counter() - start)
        if len(answers) == len(misses):
            self.breaker.succeed()
        else:
            self.breaker.suspect()
        rows = {miss: row for miss, row in answers.items() if row is not None}
        self._remember(rows)
        absences = sum(row == self.slots[slot].slot.oov for (slot, _), row in rows.items())
        self.metrics.counts.add("absences", absences)
        return answers


def _part(bundle: Bundle, name: str) -> Integers | Texts:
    part = bundle.vocabulary.slots[name]
    assert isinstance(part, Integers | Texts)
    return part


def _parts(misses: Iterable[Any], size: int) -> Iterator[list[Any]]:
    every = list(misses)
    for start in range(0, len(every), size):
        yield every[start : start + size]
