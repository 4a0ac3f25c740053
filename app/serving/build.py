"""A loaded bundle → the batcher and the scorer that use it, and what is counted of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import datetime
from time import perf_counter, thread_time

from app.catalogue.follower import Follower
from app.explain.explaining import Explaining
from app.features.graph_inputs import Batch, Scores
from app.feedback.feedback import Feedback
from app.metrics.registry import Metrics
from app.remote.vocabulary import RemoteVocabulary
from app.scoring.batcher import INLINE_SECONDS, MicroBatcher, Observe
from app.scoring.engine import CPU
from app.scoring.job import Closed
from app.scoring.limits import Limits
from app.scoring.scorer import Scorer
from app.serving.loading import Loaded
from app.serving.state import BundleInUse, ServingState
from app.serving.trial import TrialRuns
from app.settings import Settings
from app.workers.cpus import cpu_quota

log = logging.getLogger(__name__)


def watch_vocabulary(metrics: Metrics, remote: RemoteVocabulary) -> None:
    """Let metrics show what becomes of a vocabulary in Redis."""
    metrics.watch_remote(
        lambda: remote.cache.entries, lambda: remote.breaker.closed, lambda: remote.marked
    )


def _watch_catalogue(metrics: Metrics, items: Follower) -> None:
    metrics.watch_catalogue(
        lambda: len(items.catalogue),
        lambda: len(items.catalogue.refused),
        lambda: items.problem is None,
        lambda: items.parts_held,
        lambda: items.change_number,
        lambda: items.behind_seconds,
    )


class Builder:
    """Builds what scores with a loaded bundle, and closes it again."""

    def __init__(
        self,
        settings: Settings,
        limits: Limits,
        metrics: Metrics,
        state: ServingState,
        feedback: Feedback | None = None,
    ) -> None:
        """``feedback`` is told which versions are served."""
        self._settings = settings
        self._limits = limits
        self._metrics = metrics
        self._state = state
        self._feedback = feedback
        self._open: list[BundleInUse] = []
        self._abandoned = 0

    async def build(self, loaded: Loaded) -> BundleInUse:
        """Build it; its metrics are shown in the place of another bundle's."""
        batcher = self._batcher(
            loaded, self._observer(loaded), self._note_failure, self._note_hang, INLINE_SECONDS
        )
        built = await self._built(loaded, batcher)
        self._show(loaded)
        return built

    async def build_beside(self, loaded: Loaded, runs: TrialRuns, counted: bool) -> BundleInUse:
        """Build what scores with a bundle on trial, beside the one in use.

        ``runs`` is told how they end. None of them holds the event loop. ``counted`` ones are of
        requests, and count among the runs and rows of all.
        """
        if counted and self._feedback is not None:
            await self._feedback.serve(loaded.bundle.version)
        return await self._built(
            loaded,
            self._batcher(loaded, self._beside(loaded, runs, counted), runs.fail, runs.hang, 0.0),
        )

    async def _built(self, loaded: Loaded, batcher: MicroBatcher) -> BundleInUse:
        await batcher.__aenter__()
        if loaded.items is not None:
            loaded.items.start()
        scorer = self._scorer(loaded, batcher)
        built = BundleInUse(loaded, batcher, scorer, self._explaining(loaded, scorer))
        self._open.append(built)
        if self._feedback is not None:
            await self._feedback.serve(loaded.bundle.version)
        return built

    def _batcher(
        self,
        loaded: Loaded,
        observe: Observe,
        failed: Callable[[BaseException], None],
        hung: Callable[[], None],
        inline_seconds: float,
    ) -> MicroBatcher:
        settings, encoder = self._settings, loaded.encoder
        return MicroBatcher(
            loaded.scoring,
            encoder.context.shape.width,
            encoder.candidate.shape.width,
            max_rows=loaded.engine.batch_rows or settings.max_batch_rows,
            max_queue_rows=settings.max_queue_rows,
            linger=settings.batch_linger_us / 1e6,
            inline_seconds=inline_seconds,
            observe=observe,
            failed=failed,
            hang_seconds=settings.engine_hang_seconds,
            hung=hung,
            stuck=self._end_process,
            clock=thread_time if loaded.engine.provider == CPU else perf_counter,
            in_flight=loaded.engine.in_flight,
        )

    def _beside(self, loaded: Loaded, runs: TrialRuns, counted: bool) -> Observe:
        """Return the function that counts a run of a bundle on trial."""
        metrics = self._metrics
        counted = counted and metrics.enabled
        # No more of the bundle: what refers back to the batcher must not be a circle.
        count_lookups = None if loaded.remote is None else loaded.remote.count_lookups

        def observe(batch: Batch, scores: Scores, seconds: float, closed: Closed) -> None:
            runs.succeed()
            if counted:
                metrics.engine.observe(len(batch.candidate), seconds, closed)
                metrics.count_rows(len(batch.candidate))
                if count_lookups is not None:
                    count_lookups(batch)

        return observe

    def _observer(self, loaded: Loaded) -> Observe:
        """Return the function that counts a run of the bundle's engine."""
        engine, state = self._metrics.engine, self._state
        counts = self._metrics.count_bundle(loaded.bundle, loaded.encoder)

        def observe(batch: Batch, scores: Scores, seconds: float, closed: Closed) -> None:
            state.engine_ran()
            engine.observe(len(batch.candidate), seconds, closed)
            counts.observe(batch, scores)
            if loaded.remote is not None:
                loaded.remote.count_lookups(batch)

        def observe_nothing(batch: Batch, scores: Scores, seconds: float, closed: Closed) -> None:
            state.engine_ran()

        return observe if self._metrics.enabled else observe_nothing

    def _note_failure(self, error: BaseException) -> None:
        self._metrics.events.add("engine_failures")
        self._state.engine_failed(error)

    def _note_hang(self) -> None:
        self._metrics.events.add("engine_hangs")
        self._state.engine_hung()

    def _end_process(self) -> None:
        """End at once: the run holds the event loop, so no caller can be answered any more."""
        self._metrics.events.add("engine_hangs")
        log.critical("the engine hangs: a run did not end in time, and holds the event loop")
        logging.shutdown()
        os._exit(1)

    def _scorer(self, loaded: Loaded, batcher: MicroBatcher) -> Scorer:
        events = self._metrics.events

        def count_unknown(fields: int) -> None:
            events.add("unknown_fields", fields)

        return Scorer(
            loaded.bundle.version,
            loaded.encoder,
            batcher,
            self._limits,
            count_unknown,
            loaded.remote,
            None if loaded.items is None else loaded.items.catalogue,
            self._settings.unknown_items,
            self._metrics.lookups.count,
            loaded.profiles,
            loaded.item_key,
        )

    def _explaining(self, loaded: Loaded, scorer: Scorer) -> Explaining | None:
        if loaded.explainer is None:
            return None
        events = self._metrics.events

        def count(rows: int) -> None:
            events.add("explained_rows", rows)

        return Explaining(scorer, loaded.explainer, count)

    def _show(self, loaded: Loaded) -> None:
        """Let metrics and the log tell what is in use."""
        metrics, bundle, engine = self._metrics, loaded.bundle, loaded.engine
        if loaded.remote is not None:
            watch_vocabulary(metrics, loaded.remote)
        if loaded.items is not None:
            _watch_catalogue(metrics, loaded.items)
        if (profiles := loaded.profiles) is not None:
            metrics.watch_profiles(lambda: len(profiles.memory), lambda: profiles.breaker.closed)
        metrics.watch_queue(
            lambda: sum(each.batcher.queued_rows for each in self._open),
            lambda: self._abandoned + sum(each.batcher.abandoned for each in self._open),
        )
        metrics.created.set(datetime.fromisoformat(bundle.manifest.created).timestamp())
        metrics.info.clear()
        metrics.info.labels(
            bundle.version, engine.provider, engine.fallback or "", engine.precision
        ).set(1)
        log.info(
            "ready: bundle %s in %s%s on %s%s, %d engine threads for %d CPUs, worker %d of %d,"
            " golden examples within %.1e, %.2f s",
            bundle.version,
            engine.precision,
            f" ({reason})" if (reason := loaded.precision_reason) else "",
            engine.provider,
            f" (not CUDA: {engine.fallback})" if engine.fallback else "",
            engine.threads,
            cpu_quota(),
            metrics.shared.worker + 1,
            metrics.shared.workers,
            loaded.worst_difference,
            loaded.seconds,
        )

    async def close(self, bundle: BundleInUse) -> None:
        """Close a bundle's batcher, and what of it no other bundle in use has too."""
        await bundle.batcher.__aexit__(None, None, None)
        self._metrics.poll()
        self._open.remove(bundle)
        self._abandoned += bundle.batcher.abandoned
        remote, items = bundle.loaded.remote, bundle.loaded.items
        profiles = bundle.loaded.profiles
        if profiles is not None and all(
            each.loaded.profiles is not profiles for each in self._open
        ):
            await profiles.close()
        if items is not None and all(each.loaded.items is not items for each in self._open):
            await items.close()
        if remote is not None and all(each.loaded.remote is not remote for each in self._open):
            await remote.close()

    async def close_all(self) -> None:
        """Close every bundle that is still open; requests that wait are answered with 503."""
        for bundle in list(self._open):
            await self.close(bundle)
