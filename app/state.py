"""The bundle in use and everything built on it, from loading to closing."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from dataclasses import dataclass
from time import perf_counter

from app.batch import Batch
from app.batcher import MicroBatcher
from app.bundle import Bundle, newest
from app.encoder import Encoder
from app.engine import Engine, cpu_quota, refuse_mixed_distributions
from app.errors import AddressError, NotReady
from app.metrics import Metrics, RemoteCounts, ValueCounts
from app.remote.address import Address
from app.remote.link import open_link
from app.remote.vocabulary import CONNECTIONS, RemoteVocabulary
from app.scorer import Scorer, verify_examples
from app.settings import Settings

SWITCH_SECONDS = 0.0002
"""How long the event loop keeps the interpreter while the engine's thread wants it, which is
several times a run. With Python's 5 ms, rows beside a long request of 70 ms waited 60 ms (p99);
with this, 8 ms."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A verified bundle with its encoder and its warm engine."""

    bundle: Bundle
    encoder: Encoder
    engine: Engine
    worst_difference: float
    seconds: float
    remote: RemoteVocabulary | None = None


def load(settings: Settings) -> Loaded:
    """Open the bundle, verify it on the provider that will serve, and warm it up.

    Raises:
        BundleError: it does not verify.
        AddressError: the settings do not say how to reach Redis.
        ProviderError: the provider that was asked for cannot be used.
    """
    start = perf_counter()
    refuse_mixed_distributions()
    remote: RemoteVocabulary | None = None
    if settings.redis_url is None:
        bundle = Bundle.open(newest(settings.bundle))
        encoder = Encoder(bundle.spec, bundle.vocabulary)
    else:
        bundle = Bundle.open(newest(settings.bundle), mapped=True)
        remote = remote_vocabulary(settings, settings.redis_url.get_secret_value(), bundle)
        encoder = Encoder(bundle.spec, bundle.vocabulary, remote.cache.tables)
        remote.learn(bundle, encoder)
    threads = settings.engine_threads or engine_threads(cpu_quota())
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


def remote_vocabulary(settings: Settings, url: str, bundle: Bundle) -> RemoteVocabulary:
    """Prepare to read the bundle's vocabulary through Redis; nothing is connected yet.

    Raises:
        AddressError: the settings do not say how to reach it.
    """
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
        RemoteCounts(),
    )


def engine_threads(cpus: int) -> int:
    """Threads of the engine where none are asked for: all CPUs but the event loop's.

    On two CPUs and 32 connections one thread answered 5,400 requests a second, two 4,700.
    """
    return max(1, cpus - 1)


class State:
    """What the service has in use now; not ready until a bundle is loaded."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
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
        if self._remote is None:
            return "the bundle is still being loaded"
        return f"the vocabulary is not there yet: {self._remote.problem}"

    async def start(self) -> None:
        """Load off the event loop, then become ready."""
        settings, metrics = self._settings, self._metrics
        loaded = await asyncio.to_thread(load, settings)
        encoder = loaded.encoder
        counts = ValueCounts(loaded.bundle.vocabulary.layout, encoder.context, encoder.candidate)
        metrics.registry.register(counts)
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
        metrics.queued_rows.set_function(lambda: batcher.queued_rows)
        metrics.abandoned.set_function(lambda: batcher.abandoned)
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
        # The vocabulary will not go away: the collector need not walk it. What requests leave
        # behind is freed by reference counts; looking for cycles more rarely saves a tenth.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        sys.setswitchinterval(SWITCH_SECONDS)
        log.info(
            "ready: bundle %s in %s on %s%s, %d engine threads for %d CPUs,"
            " golden examples within %.1e, %.2f s",
            loaded.bundle.version,
            loaded.engine.precision,
            loaded.engine.provider,
            f" (not CUDA: {loaded.engine.fallback})" if loaded.engine.fallback else "",
            loaded.engine.threads,
            cpu_quota(),
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

    async def close(self) -> None:
        """Answer whoever still waits, and let go."""
        if self.batcher is not None:
            await self.batcher.__aexit__(None, None, None)
        if self._remote is not None:
            await self._remote.close()
