"""Profiles in a store: remembered for a while, asked for in shared round trips, never waited for
longer than a request may wait.

A store may block, so it is asked in threads. One that fails or does not answer in time is asked no
more until a probe has succeeded: see ``app.remote.breaker``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from time import monotonic, perf_counter
from typing import Any

import msgspec

from app.errors import Problem, StoreError, ValueProblem
from app.features.encoder import SideEncoder
from app.features.keys import text_key
from app.features.spec import FeatureSpec
from app.logs import LogLimit
from app.metrics.profiles import ProfileMetrics
from app.off_loop import KeptThread, start_off_loop
from app.profiles.memory import ProfileMemory
from app.remote.breaker import Breaker
from app.remote.gatherer import Gatherer
from app.store.opening import open_store
from app.store.store import Store

REMEMBERED_BYTES = 64 * 2**20
"""Room for remembered profiles in a process."""
PROBE_SECONDS = 1.0
"""Time limit of a probe. No request waits for one, and it may have to open the store."""
CHECKED_TOGETHER = 8
"""Profiles that are checked by the spec between two turns of the event loop."""
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode
log = logging.getLogger(__name__)


class StoredProfiles:
    """The profiles of a store for one bundle; an ``app.scoring.profiles.Profiles``.

    Fields that the bundle's spec does not have, or refuses, count as absent; the log names them.
    """

    def __init__(
        self,
        url: str,
        field: str,
        spec: FeatureSpec,
        context: SideEncoder,
        wait_seconds: float,
        remember_seconds: float,
        metrics: ProfileMetrics,
    ) -> None:
        """A request waits for ``wait_seconds`` at most; ``context`` checks the values."""
        self.field = field
        self.known = field in context.fields
        self.key = text_key(spec, field)
        self.memory = ProfileMemory(remember_seconds, REMEMBERED_BYTES, monotonic)
        self.breaker = Breaker(self._probe, "the store for profiles")
        self._url = url
        self._encoders = {each.name: each for each in context.encoders}
        self._seconds = wait_seconds
        self._metrics = metrics
        self._gatherer: Gatherer[str, bytes | None] = Gatherer(self._ask)
        self._store: Store | None = None
        self._thread = KeptThread()
        self._probing: asyncio.Future[Store] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._limit = LogLimit(10.0)

    @property
    def problem(self) -> str | None:
        """The problem with the store; the log has the detail."""
        problem = self.breaker.problem
        return problem.shown if problem else None

    async def reach(self) -> None:
        """Begin to ask the store; return after the first answer, or failure."""
        self._watching = asyncio.create_task(self.breaker.watch())
        await self.breaker.probed()

    async def close(self) -> None:
        """Stop asking, and close the store; requests that wait do without profiles."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        self.breaker.close()
        await self._gatherer.close()
        self._thread.leave()
        self._forget_store()

    def _forget_store(self) -> None:
        """Close the store in a thread: it may hang."""
        store, self._store = self._store, None
        if store is not None:
            start_off_loop(store.close)

    def remembered(self, keys: Sequence[str]) -> dict[str, bytes | None]:
        return self.memory.get(keys)

    def count(self, found: int, absent: int, unavailable: int) -> None:
        self._metrics.count(found, absent, unavailable)

    async def fetch(self, keys: Sequence[str], deadline: float) -> Mapping[str, bytes | None]:
        if not self.breaker.closed:
            return {}
        left = min(self._seconds, deadline - asyncio.get_running_loop().time())
        return await self._gatherer.fetch(keys, left)

    async def _ask(self, keys: Sequence[str]) -> Mapping[str, bytes | None]:
        """Ask the store in one round trip; a failure is counted and opens the breaker."""
        store = self._store
        if store is None or not self.breaker.closed:
            return {}
        start = perf_counter()
        try:
            async with asyncio.timeout(self._seconds):
                values = await self._thread.run(lambda: store.profiles.find(keys))
        except TimeoutError:
            self._thread.leave()
            self._fail("timeout", Problem("the store did not answer in time"))
            return {}
        except StoreError as error:
            self._fail("failed", Problem("the store failed", str(error)))
            return {}
        self._metrics.seconds.observe(perf_counter() - start)
        self.breaker.succeed()
        answers: dict[str, bytes | None] = {}
        for place, (key, each) in enumerate(zip(keys, values, strict=True)):
            if place % CHECKED_TOGETHER == 0 and place:
                await asyncio.sleep(0)
            answers[key] = None if each is None else self._usable(key, each)
        self.memory.add(answers)
        return answers

    def _fail(self, reason: str, problem: Problem) -> None:
        self._metrics.errors.add(reason)
        self.breaker.trip(problem)

    async def _probe(self) -> Problem | None:
        """Find out whether the store answers; only one probe is under way, however long."""
        if self._probing is None:
            self._probing = start_off_loop(self._reached)
        probing = self._probing
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                self._store = await asyncio.shield(probing)
        except TimeoutError:
            return Problem("the store does not answer")
        except StoreError as error:
            self._probing = None
            self._forget_store()
            return Problem("the store cannot be used", str(error))
        self._probing = None
        return None

    def _reached(self) -> Store:
        """Open the store, unless it is open; ask it for nothing, which it does not answer if it is
        gone.
        """
        store = self._store or open_store(self._url)
        try:
            store.profiles.find([])
        except StoreError:
            if store is not self._store:
                store.close()
            raise
        return store

    def _usable(self, key: str, values: bytes) -> bytes | None:
        """Return a profile without the fields that the bundle's spec does not have or refuses.

        One that cannot be read counts as absent.
        """
        try:
            given = _decode(values)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError) as error:
            text = "profile %r is left out: the stored value is damaged: %s"
            self._limit.log(log, logging.WARNING, text, key[:64], error)
            return None
        kept: dict[str, Any] = {}
        for name, value in given.items():
            encoder = self._encoders.get(name)
            if encoder is None:
                continue
            try:
                encoder.one(value)
            except ValueProblem as problem:
                text = "profile %r: field %r is left out: %s"
                self._limit.log(log, logging.WARNING, text, key[:64], name, problem.problem)
            else:
                kept[name] = value
        return _encode(kept)
