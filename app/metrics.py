"""Every metric that the service shows."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

import numpy as np
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.batch import Batch, Indices
from app.encoder import SideEncoder
from app.layout import Layout, Slot

LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)

ROUTES = ("predict", "rank")
OUTCOMES = ("200", "400", "413", "415", "422", "429", "500", "503", "504", "gone")
KEPT_ROWS = 1024
REMOTE_ERRORS = ("connection", "timeout", "login", "refused", "sentinel", "value")
FALLBACKS = ("snapshot", "oov", "reject")


class ValueCounts(Collector):
    """Missing and OOV values by slot.

    A list counts as OOV if any value of it is; padding counts as nothing. Batches are kept
    until there are enough rows to be worth an array operation, or someone looks.
    """

    def __init__(self, layout: Layout, context: SideEncoder, candidate: SideEncoder) -> None:
        self._context = _SideCounts(layout.context, layout.context_lists, context)
        self._candidate = _SideCounts(layout.candidate, layout.candidate_lists, candidate)
        self._kept: list[Batch] = []
        self._kept_rows = 0
        self.rows = 0

    def observe(self, batch: Batch) -> None:
        """Count the values of a batch: a context once for each of its rows."""
        self._kept.append(batch)
        self._kept_rows += len(batch.candidate)
        if self._kept_rows >= KEPT_ROWS:
            self._count()

    def _count(self) -> None:
        kept, self._kept, self._kept_rows = self._kept, [], 0
        if kept:
            candidates = np.concatenate([batch.candidate for batch in kept])
            self._context.observe(
                np.concatenate([batch.context[batch.row_context] for batch in kept])
            )
            self._candidate.observe(candidates)
            self.rows += len(candidates)

    def collect(self) -> Iterable[Metric]:
        self._count()
        missing = CounterMetricFamily("ctr_missing_values", "Absent values", labels=["slot"])
        oov = CounterMetricFamily("ctr_oov_values", "Values not in the vocabulary", labels=["slot"])
        for side in (self._context, self._candidate):
            for slot, absent, unseen in side.totals():
                missing.add_metric([slot.name], absent)
                oov.add_metric([slot.name], unseen)
        rows = CounterMetricFamily("ctr_rows", "Rows scored")
        rows.add_metric([], self.rows)
        return [missing, oov, rows]


class _SideCounts:
    def __init__(
        self, single: tuple[Slot, ...], lists: tuple[Slot, ...], side: SideEncoder
    ) -> None:
        self._slots = single + lists
        self._single = len(single)
        self._lists = side.shape.lists
        self._first = np.array([slot.missing for slot in self._slots], np.int32)
        self._missing = np.zeros(len(self._slots), np.int64)
        self._oov = np.zeros(len(self._slots), np.int64)

    def observe(self, rows: Indices) -> None:
        end = self._single
        offset = rows[:, :end] - self._first[:end]
        self._missing[:end] += (offset == 0).sum(0)
        self._oov[:end] += (offset == 1).sum(0)
        for slot, (start, stop) in enumerate(self._lists, end):
            offset = rows[:, start:stop] - self._first[slot]
            self._missing[slot] += (offset == 0).any(1).sum()
            self._oov[slot] += (offset == 1).any(1).sum()

    def totals(self) -> Iterable[tuple[Slot, int, int]]:
        return zip(self._slots, self._missing.tolist(), self._oov.tolist(), strict=True)


class Buckets:
    """One histogram's counts: a bisection and two additions for each observation."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """The counts as Prometheus shows them."""
        names = [*map(str, self.bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))


class Recorder(Collector):
    """Requests, and what the engine ran.

    The event loop is the only writer, so plain numbers do; prometheus_client's own metrics
    take a lock and walk their buckets for each observation.
    """

    def __init__(self) -> None:
        self.seconds = {route: Buckets(LATENCY_BUCKETS) for route in ROUTES}
        self.outcomes = {route: dict.fromkeys(OUTCOMES, 0) for route in ROUTES}
        self.batch_rows = Buckets(ROW_BUCKETS)
        self.engine_seconds = Buckets(LATENCY_BUCKETS)
        self.unknown_fields = 0

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "ctr_requests", "Requests answered", labels=["route", "outcome"]
        )
        latency = HistogramMetricFamily(
            "ctr_request_seconds", "Time from a request's first byte to its answer",
            labels=["route"],
        )  # fmt: skip
        for route in ROUTES:
            for outcome, number in self.outcomes[route].items():
                requests.add_metric([route, outcome], number)
            found = self.seconds[route]
            latency.add_metric([route], found.cumulative(), found.total)
        rows = HistogramMetricFamily("ctr_batch_rows", "Rows of one engine run")
        rows.add_metric([], self.batch_rows.cumulative(), self.batch_rows.total)
        runs = HistogramMetricFamily("ctr_engine_seconds", "Time of one engine run")
        runs.add_metric([], self.engine_seconds.cumulative(), self.engine_seconds.total)
        unknown = CounterMetricFamily(
            "ctr_unknown_fields", "Fields in requests that the spec does not know"
        )
        unknown.add_metric([], self.unknown_fields)
        return [requests, latency, rows, runs, unknown]


class RemoteCounts(Collector):
    """What was asked of a vocabulary in Redis, and how that went.

    ``lookups`` counts a field of a row once, a list as one; ``misses`` the distinct values of
    a request that the cache did not hold.
    """

    def __init__(self) -> None:
        self.lookups = 0
        self.misses = 0
        self.absences = 0
        self.evicted = 0
        self.round_trips = 0
        self.errors = dict.fromkeys(REMOTE_ERRORS, 0)
        self.fallbacks = dict.fromkeys(FALLBACKS, 0)
        self.seconds = Buckets(LATENCY_BUCKETS)

    def collect(self) -> Iterable[Metric]:
        for name, text, value in (
            ("lookups", "Values looked up", self.lookups),
            ("hits", "Values that the cache held", max(0, self.lookups - self.misses)),
            ("misses", "Values that the cache did not hold", self.misses),
            ("absences", "Values of which Redis said that it has none", self.absences),
            ("evicted", "Values and absences that the cache had no more room for", self.evicted),
        ):
            counter = CounterMetricFamily(f"ctr_vocabulary_{name}", text)
            counter.add_metric([], value)
            yield counter
        fallbacks = CounterMetricFamily(
            "ctr_vocabulary_fallbacks", "Values that Redis was not there for", labels=["fallback"]
        )
        for fallback, value in self.fallbacks.items():
            fallbacks.add_metric([fallback], value)
        errors = CounterMetricFamily(
            "ctr_redis_errors", "Failed round trips and unusable answers", labels=["reason"]
        )
        for reason, value in self.errors.items():
            errors.add_metric([reason], value)
        trips = CounterMetricFamily("ctr_redis_round_trips", "Questions to Redis for requests")
        trips.add_metric([], self.round_trips)
        seconds = HistogramMetricFamily("ctr_redis_seconds", "Time of a round trip that succeeded")
        seconds.add_metric([], self.seconds.cumulative(), self.seconds.total)
        yield from (fallbacks, errors, trips, seconds)


class Metrics:
    """The service's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.recorder = Recorder()
        self.registry.register(self.recorder)
        self.abandoned = Gauge(
            "ctr_abandoned_requests", "Requests dropped before the engine: deadline or departed",
            registry=self.registry,
        )  # fmt: skip
        self.queued_rows = Gauge(
            "ctr_queued_rows", "Rows waiting for the engine", registry=self.registry
        )
        self.info = Gauge(
            "ctr_bundle_info", "The bundle, the execution provider in use, why not CUDA, precision",
            ["version", "provider", "provider_fallback", "precision"], registry=self.registry,
        )  # fmt: skip

    def add_remote(
        self, counts: RemoteCounts, entries: Callable[[], int], up: Callable[[], bool]
    ) -> None:
        """Show what becomes of a vocabulary in Redis."""
        self.registry.register(counts)
        cached = Gauge(
            "ctr_vocabulary_cached", "Values and absences in the cache", registry=self.registry
        )
        cached.set_function(entries)
        asked = Gauge(
            "ctr_redis_up", "1 while Redis is asked, 0 while it is given time",
            registry=self.registry,
        )  # fmt: skip
        asked.set_function(up)
