"""The bundle in use and everything built on it, from loading to closing."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

from app.batch import Batch
from app.batcher import MicroBatcher
from app.bundle import Bundle, newest
from app.cells import Cells
from app.encoder import Encoder
from app.engine import Engine, cpu_quota, refuse_mixed_distributions
from app.errors import AddressError, NotReady
from app.metrics import Metrics, RemoteCounts
from app.remote.address import Address
from app.remote.link import open_link
from app.remote.vocabulary import CONNECTIONS, RemoteVocabulary
from app.scorer import Scorer, verify_examples
from app.settings import Settings

SWITCH_SECONDS = 0.0001
"""How long the event loop keeps the interpreter while the engine's thread wants it, which is
several times a run: while a list is encoded, the engine waits up to this for each part of it.
With Python's 5 ms, rows beside a long request of 70 ms waited 60 ms (p99); with 0.2 ms, 8 ms."""
POLL_SECONDS = 0.25
"""How old what other workers show of this one's gauges may be, and its counts of values."""
log = logging.getLogger(__name__)


class Opened(NamedTuple):
    """A bundle whose hashes agree, and its encoder where the vocabulary is kept in memory.

    Workers can share it: nothing of it knows a thread, a loop or an engine.
    """

    bundle: Bundle
    encoder: Encoder | None


def open_bundle(settings: Settings) -> Opened:
    """Open the bundle.

    Raises:
        BundleError: it does not verify.
    """
    mapped = settings.redis_url is not None
    bundle = Bundle.open(newest(settings.bundle), mapped=mapped)
    return Opened(bundle, None if mapped else Encoder(bundle.spec, bundle.vocabulary))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A verified bundle with its encoder and its warm engine."""

    bundle: Bundle
    encoder: Encoder
    engine: Engine
    worst_difference: float
    seconds: float
    remote: RemoteVocabulary | None = None


def load(settings: Settings, cells: Cells, opened: Opened | None = None) -> Loaded:
    """Verify a bundle, opened by now or not, on the provider that will serve; warm it up.

    Raises:
        BundleError: it does not verify.
        AddressError: the settings do not say how to reach Redis.
        ProviderError: the provider that was asked for cannot be used.
    """
    start = perf_counter()
    refuse_mixed_distributions()
    remote: RemoteVocabulary | None = None
    bundle, encoder = opened or open_bundle(settings)
    if encoder is None:
        remote = remote_vocabulary(settings, bundle, cells)
        encoder = Encoder(bundle.spec, bundle.vocabulary, remote.cache.tables)
        remote.learn(bundle, encoder)
    threads = settings.engine_threads or engine_threads(cpu_quota(), settings.workers)
    engine = Engine(
        bundle.graph_in(settings.precision),
        bundle.vocabulary.layout,
        encoder.context.shape,
        encoder.candidate.shape,
        settings.provider,
        threads,
        settings.precision,
    )
    worst = verify_examples(bundle, encoder, engine, engine.tolerance, settings.precision)
    engine.warm_up()
    return Loaded(bundle, encoder, engine, worst, perf_counter() - start, remote)


def remote_vocabulary(settings: Settings, bundle: Bundle, cells: Cells) -> RemoteVocabulary:
    """Prepare to read the bundle's vocabulary through Redis; nothing is connected yet.

    Raises:
        AddressError: the settings do not say how to reach it.
    """
    assert settings.redis_url is not None
    url = settings.redis_url.get_secret_value()
    try:
        link = open_link(Address.parse(url), CONNECTIONS, settings.redis_password_file)
    except AddressError as error:
        raise AddressError(f"setting redis_url: {error}") from error
    return RemoteVocabulary(
        bundle,
        link,
        settings.vocabulary_fallback,
        settings.vocabulary_cache,
        settings.redis_timeout_ms / 1000,
        RemoteCounts(cells),
    )


def engine_threads(cpus: int, workers: int = 1) -> int:
    """Threads of an engine where none are asked for: a worker's CPUs but the event loop's.

    On two CPUs and 32 connections one thread answered 5,400 requests a second, two 4,700.
    """
    return max(1, cpus // workers - 1)


class State:
    """What the service has in use now; not ready until a bundle is loaded."""

    def __init__(self, settings: Settings, metrics: Metrics, opened: Opened | None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._opened = opened
        self._polling: asyncio.TimerHandle | None = None
        self.loaded: Loaded | None = None
        self.batcher: MicroBatcher | None = None
        self.draining = False
        self._remote: RemoteVocabulary | None = None
        self._scorer: Scorer | None = None

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
        if self.loaded is not None:
            return "other workers are still being started"
        if self._remote is None:
            return "the bundle is still being loaded"
        return f"the vocabulary is not there yet: {self._remote.problem}"

    async def start(self) -> None:
        """Load off the event loop, then become ready."""
        settings, metrics = self._settings, self._metrics
        loaded = await asyncio.to_thread(load, settings, metrics.cells, self._opened)
        encoder = loaded.encoder
        counts = metrics.add_values(
            loaded.bundle.vocabulary.layout, encoder.context, encoder.candidate
        )
        recorder = metrics.recorder
        if loaded.remote is not None:
            await self._reach(loaded.remote)

        def observe(batch: Batch, seconds: float) -> None:
            recorder.batch_rows.observe(len(batch.candidate))
            recorder.engine_seconds.observe(seconds)
            counts.observe(batch)
            if loaded.remote is not None:
                loaded.remote.count_lookups(batch)

        def count_unknown(fields: int) -> None:
            recorder.unknown_fields += fields

        batcher = MicroBatcher(
            loaded.engine,
            encoder.context.shape.width,
            encoder.candidate.shape.width,
            max_rows=settings.max_batch_rows,
            max_queue_rows=settings.max_queue_rows,
            linger=settings.batch_linger_us / 1e6,
            observe=observe,
        )
        self.batcher = await batcher.__aenter__()
        metrics.add_queue(lambda: batcher.queued_rows, lambda: batcher.abandoned)
        metrics.info.labels(
            loaded.bundle.version,
            loaded.engine.provider,
            loaded.engine.fallback or "",
            loaded.engine.precision,
        ).set(1)
        self._scorer = Scorer(
            loaded.bundle,
            encoder,
            batcher,
            settings.max_instances,
            settings.max_candidates,
            settings.unknown_fields == "error",
            count_unknown,
            loaded.remote,
        )
        self.loaded = loaded
        metrics.cells.set_ready(True)
        if metrics.cells.workers > 1:
            self._poll()
        # The vocabulary will not go away: the collector need not walk it. What requests leave
        # behind is freed by reference counts; looking for cycles more rarely saves a tenth.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        sys.setswitchinterval(SWITCH_SECONDS)
        log.info(
            "ready: bundle %s in %s on %s%s, %d engine threads for %d CPUs, worker %d of %d,"
            " golden examples within %.1e, %.2f s",
            loaded.bundle.version,
            loaded.engine.precision,
            loaded.engine.provider,
            f" (not CUDA: {loaded.engine.fallback})" if loaded.engine.fallback else "",
            loaded.engine.threads,
            cpu_quota(),
            metrics.cells.worker + 1,
            metrics.cells.workers,
            loaded.worst_difference,
            loaded.seconds,
        )

    async def _reach(self, remote: RemoteVocabulary) -> None:
        """Begin to ask Redis; where nothing may stand in for it, wait for it.

        With the bundle's own copy in reserve there is no reason to wait for more than a first try.
        """
        self._remote = remote
        self._metrics.add_remote(
            remote.counts,
            lambda: remote.cache.entries,
            lambda: remote.breaker.closed,
        )
        remote.start()
        await remote.breaker.probed()
        if remote.fallback != "snapshot":
            await remote.breaker.reached()

    @property
    def ready(self) -> bool:
        """Whether this worker is ready, and the others are or have been."""
        return self.loaded is not None and self._metrics.cells.started

    def _poll(self) -> None:
        self._metrics.poll()
        self._polling = asyncio.get_running_loop().call_later(POLL_SECONDS, self._poll)

    async def close(self) -> None:
        """Answer whoever still waits, and let go."""
        if self._polling is not None:
            self._polling.cancel()
        self._metrics.poll()
        if self.batcher is not None:
            await self.batcher.__aexit__(None, None, None)
        if self._remote is not None:
            await self._remote.close()
