"""The bundle in use and everything built on it, from loading to closing, and how another one
takes its place."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.backoff import Backoff
from app.bundle.directory import newest
from app.errors import BundleError, CtrError, NotReady
from app.features.graph_inputs import Batch, Scores
from app.metrics.registry import Metrics
from app.remote.vocabulary import RemoteVocabulary
from app.scoring.batcher import MicroBatcher
from app.scoring.engine import cpu_quota
from app.scoring.job import Closed
from app.scoring.limits import Limits
from app.scoring.scorer import Scorer
from app.serving.loading import Loaded, Opened, load, open_bundle, start_engine
from app.serving.versions import Attempt, Versions
from app.settings import Settings

SWITCH_SECONDS = 0.00005
"""How long the event loop keeps the interpreter while the engine's thread wants it, which is
several times a run: while a list is encoded, the engine waits up to this for each part of it.
With Python's 5 ms, rows beside a long request of 70 ms waited 60 ms (p99); with 0.2 ms, 8 ms."""
POLL_SECONDS = 0.25
"""How old what other workers show of this one's gauges may be, and its counts of values."""
AGREE_SECONDS, LOOK_SECONDS = 120.0, 0.02
"""How long a worker waits for the others to have loaded a bundle too; how often it looks."""
REACH_SECONDS = 30.0
"""How long another bundle's vocabulary may take to be found in Redis."""
FAILURES = 3
"""Failed runs in a row after which the service is not ready and the engine is built anew."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between two tries to build it."""
log = logging.getLogger(__name__)


class State:
    """What the service has in use now; not ready until a bundle is loaded."""

    def __init__(
        self, settings: Settings, limits: Limits, metrics: Metrics, opened: Opened | None
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._metrics = metrics
        self._opened = opened
        self.versions = Versions(settings.bundle)
        self._look = asyncio.Event()
        self._prepared = metrics.shared.region("prepared bundle", 1)
        self._serving = metrics.shared.region("serving bundle", 1)
        self._refused = metrics.shared.region("refused attempt", 1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._polling: asyncio.TimerHandle | None = None
        self._batchers: list[MicroBatcher] = []
        self._abandoned = 0
        self._remotes: list[RemoteVocabulary] = []
        self._scorer: Scorer | None = None
        self._failures = 0
        self.loaded: Loaded | None = None
        self.refused: str | None = None
        self.draining = False

    @property
    def scorer(self) -> Scorer:
        """The scorer of the bundle in use.

        Raises:
            NotReady: there is none.
        """
        if self._scorer is None:
            raise NotReady(self.not_ready)
        return self._scorer

    @property
    def not_ready(self) -> str:
        """Why there is nothing to score with yet."""
        if self._failures >= FAILURES:
            return "the engine fails"
        if self.loaded is not None:
            return "other workers are still being started"
        if not self._remotes:
            return "the bundle is still being loaded"
        return f"the vocabulary is not there yet: {self._remotes[-1].problem}"

    @property
    def ready(self) -> bool:
        """Whether this worker is ready, and the others are or have been."""
        works = self.loaded is not None and self._failures < FAILURES
        return works and self._metrics.shared.started

    async def start(self) -> None:
        """Load off the event loop, then become ready, and watch for other bundles."""
        settings, shared = self._settings, self._metrics.shared
        path = await asyncio.to_thread(lambda: self._in_use() or newest(settings.bundle))
        opened, self._opened = self._opened, None
        if opened is not None and opened.bundle.path != path:
            opened = None
        loaded = await self._load(path, opened)
        if loaded.remote is not None:
            self._show(loaded.remote)
            await self._reach(loaded.remote)
        self._prepared.own[0] = loaded.bundle.number
        await self._serve(loaded)
        shared.set_ready()
        if shared.workers > 1:
            self._poll()
        sys.setswitchinterval(SWITCH_SECONDS)
        if path != settings.bundle:
            self._begin(self._watch())

    def _in_use(self) -> Path | None:
        """The bundle that the other workers serve, for one that takes a dead one's place.

        Another one may be newer, or named by ``CURRENT``, and have been refused.
        """
        directory = self._settings.bundle
        if not self._metrics.shared.started or not directory.is_dir():
            return None
        ends = {f"-{int(number):012x}" for number in self._prepared.each()}
        return next((path for path in directory.glob("[0-9]*") if path.name[-13:] in ends), None)

    async def _load(self, path: Path, opened: Opened | None = None) -> Loaded:
        def work() -> Loaded:
            return load(
                self._settings,
                self._metrics.remote,
                opened or open_bundle(self._settings, path),
            )

        return await asyncio.to_thread(work)

    async def _reach(self, remote: RemoteVocabulary) -> None:
        """Begin to ask Redis; where nothing may stand in for it, wait for it.

        With the bundle's own copy in reserve there is no reason to wait for more than a first try.
        """
        self._remotes.append(remote)
        remote.start()
        await remote.breaker.probed()
        if remote.fallback != "snapshot":
            await remote.breaker.reached()

    def _show(self, remote: RemoteVocabulary) -> None:
        self._metrics.watch_remote(lambda: remote.cache.entries, lambda: remote.breaker.closed)

    async def _serve(self, loaded: Loaded) -> None:
        """Let every request that begins from now on be scored by this bundle."""
        settings, metrics, remote = self._settings, self._metrics, loaded.remote
        bundle, encoder, engine = loaded.bundle, loaded.encoder, loaded.engine
        if remote is not None:
            self._show(remote)
        counts = metrics.count_bundle(bundle, encoder)

        def observe(batch: Batch, scores: Scores, seconds: float, closed: Closed) -> None:
            self._failures = 0
            if not metrics.enabled:
                return
            metrics.engine.observe(len(batch.candidate), seconds, closed)
            counts.observe(batch, scores)
            if remote is not None:
                remote.count_lookups(batch)

        def count_unknown(fields: int) -> None:
            metrics.events.add("unknown_fields", fields)

        batcher = MicroBatcher(
            engine,
            encoder.context.shape.width,
            encoder.candidate.shape.width,
            max_rows=settings.max_batch_rows,
            max_queue_rows=settings.max_queue_rows,
            linger=settings.batch_linger_us / 1e6,
            observe=observe,
            failed=self._note_failure,
        )
        self._failures = 0
        await batcher.__aenter__()
        self._batchers.append(batcher)
        metrics.watch_queue(
            lambda: sum(each.queued_rows for each in self._batchers),
            lambda: self._abandoned + sum(each.abandoned for each in self._batchers),
        )
        metrics.info.clear()
        metrics.info.labels(
            bundle.version, engine.provider, engine.fallback or "", engine.precision
        ).set(1)
        self._scorer = Scorer(
            bundle.version,
            encoder,
            batcher,
            self._limits,
            count_unknown,
            remote,
        )
        self.loaded = loaded
        self._serving.own[0] = bundle.number
        self.refused = None
        # The vocabulary will not go away: the collector need not walk it. What requests leave
        # behind is freed by reference counts; looking for cycles more rarely saves a tenth.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        log.info(
            "ready: bundle %s in %s on %s%s, %d engine threads for %d CPUs, worker %d of %d,"
            " golden examples within %.1e, %.2f s",
            bundle.version,
            engine.precision,
            engine.provider,
            f" (not CUDA: {engine.fallback})" if engine.fallback else "",
            engine.threads,
            cpu_quota(),
            metrics.shared.worker + 1,
            metrics.shared.workers,
            loaded.worst_difference,
            loaded.seconds,
        )

    async def _watch(self) -> None:
        """Serve whichever bundle of the directory should be, as long as this one does not."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.bundle_poll_seconds):
                    await self._look.wait()
            self._look.clear()
            assert self.loaded is not None
            try:
                attempt = await asyncio.to_thread(self.versions.wanted, self.loaded.bundle.path)
                if attempt is not None:
                    await self._swap(attempt)
            except Exception:
                # Nobody foresaw it; without this task no bundle would ever be served again.
                log.exception("looking for another bundle failed")

    def look(self) -> None:
        """Look for another bundle at once."""
        self._look.set()

    @property
    def agreed(self) -> bool:
        """Whether all workers serve the same bundle."""
        return self._serving.equal()

    async def _swap(self, attempt: Attempt) -> None:
        """Put another bundle in the place of the one in use, or say why not and keep that."""
        assert self.loaded is not None
        path = attempt.path
        old, batcher = self.loaded, self._batchers[-1]
        loaded = None
        try:
            loaded = await self._load(path)
            if loaded.remote is not None:
                await self._found(loaded.remote)
            await self._agree(loaded, attempt)
        except Exception as error:
            self.refused = str(error) if isinstance(error, CtrError) else type(error).__name__
            log.error(
                "still serving %s: %s is refused: %s", old.bundle.version, path.name, self.refused,
                exc_info=None if isinstance(error, CtrError) else error,
            )  # fmt: skip
            self._metrics.events.add("refused_bundles")
            self._refused.own[0] = attempt.number
            self.versions.refuse(attempt, self.refused)
            self._prepared.own[0] = old.bundle.number
            if loaded is not None and loaded.remote is not None:
                await self._forget(loaded.remote)
            return
        await self._serve(loaded)
        self._begin(self._retire(old, batcher))

    async def _found(self, remote: RemoteVocabulary) -> None:
        """Wait for another bundle's vocabulary.

        Raises:
            BundleError: it is not in Redis, and nothing may stand in for it.
        """
        try:
            async with asyncio.timeout(REACH_SECONDS):
                await self._reach(remote)
        except TimeoutError:
            raise BundleError(f"its vocabulary: {remote.problem}") from None

    async def _agree(self, loaded: Loaded, attempt: Attempt) -> None:
        """Wait until every worker could serve this bundle.

        Raises:
            BundleError: one of them cannot.
        """
        self._prepared.own[0] = loaded.bundle.number
        try:
            async with asyncio.timeout(AGREE_SECONDS):
                while not self._prepared.equal():
                    if attempt.number in self._refused.each():
                        raise BundleError("another worker cannot serve it")
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise BundleError("another worker is not able to serve it yet") from None

    def _note_failure(self, error: Exception) -> None:
        self._metrics.events.add("engine_failures")
        self._failures += 1
        if self._failures == FAILURES:
            log.error("the engine failed %d times in a row: %s", FAILURES, error)
            self._begin(self._heal())

    async def _heal(self) -> None:
        """Build the engine anew until one works, or the old one works again."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while self._failures >= FAILURES:
            assert self.loaded is not None
            old, batcher = self.loaded, self._batchers[-1]
            try:
                engine, worst = await asyncio.to_thread(
                    start_engine, self._settings, old.bundle, old.encoder
                )
            except Exception as error:
                log.error("the engine cannot be built anew: %s", error)
                await asyncio.sleep(backoff.fail())
                continue
            if self.loaded is old:
                await self._serve(replace(old, engine=engine, worst_difference=worst))
                self._begin(self._retire(old, batcher))

    async def _retire(self, old: Loaded, batcher: MicroBatcher) -> None:
        """Let go of a bundle once every request that began with it has had its answer."""
        await asyncio.sleep(self._settings.deadline_ms / 1000 + 1)
        await batcher.__aexit__(None, None, None)
        self._metrics.poll()
        self._batchers.remove(batcher)
        self._abandoned += batcher.abandoned
        if old.remote is not None and (self.loaded is None or self.loaded.remote is not old.remote):
            await self._forget(old.remote)

    async def _forget(self, remote: RemoteVocabulary) -> None:
        self._remotes.remove(remote)
        await remote.close()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _poll(self) -> None:
        self._metrics.poll()
        self._polling = asyncio.get_running_loop().call_later(POLL_SECONDS, self._poll)

    async def close(self) -> None:
        """Answer whoever still waits, and let go."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._polling is not None:
            self._polling.cancel()
        self._metrics.poll()
        for batcher in self._batchers:
            await batcher.__aexit__(None, None, None)
        for remote in self._remotes:
            await remote.close()
