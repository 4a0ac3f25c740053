"""Every metric that the service shows, added up over its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from weakref import WeakSet

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app.bundle.bundle import Bundle
from app.features.encoder import Encoder
from app.metrics.bundle import BundleCounts
from app.metrics.counters import Buckets, Counts, Number
from app.metrics.requests import (
    LATENCY_BUCKETS,
    OPERATION,
    STAGE_BUCKETS,
    RequestMetrics,
    RequestsCollector,
)
from app.scoring.job import CLOSED, Closed
from app.workers.shared_numbers import Region, SharedNumbers

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
REMOTE_ERRORS = ("connection", "timeout", "login", "refused", "sentinel", "value")
FALLBACKS = ("snapshot", "oov", "reject")


class Recorder(Collector):
    """What the engine ran, and what else is worth counting once."""

    unknown_fields, refused_bundles, engine_failures = (Number() for _ in range(3))

    def __init__(self, shared: SharedNumbers) -> None:
        self.batch_rows = Buckets(shared, "batch rows", ROW_BUCKETS)
        self.engine_seconds = Buckets(shared, "engine seconds", STAGE_BUCKETS)
        self.closed = Counts(shared, "batches closed", CLOSED)
        self.numbers = Counts(
            shared, "numbers", ["unknown_fields", "refused_bundles", "engine_failures"]
        )

    def observe(self, rows: int, seconds: float, closed: Closed) -> None:
        """Count a run of the engine."""
        self.batch_rows.observe(rows)
        self.engine_seconds.observe(seconds)
        self.closed[closed] += 1

    def collect(self) -> Iterable[Metric]:
        rows = HistogramMetricFamily("ctr_batch_rows", "Rows of one engine run")
        rows.add_metric([], *self.batch_rows.shown())
        runs = HistogramMetricFamily("ctr_engine_seconds", "Time of one engine run")
        runs.add_metric([], *self.engine_seconds.shown())
        batches = CounterMetricFamily(
            "ctr_batches", "Engine runs, by why their batch took no more rows", labels=["closed"]
        )
        for closed, number in self.closed.totals().items():
            batches.add_metric([closed], number)
        yield from (rows, runs, batches)
        numbers = self.numbers.totals()
        for name, text in (
            ("unknown_fields", "Fields in requests that the spec does not know"),
            ("refused_bundles", "Bundles that could not take the place of the one in use"),
            ("engine_failures", "Engine runs that gave no scores"),
        ):
            counter = CounterMetricFamily(f"ctr_{name}", text)
            counter.add_metric([], numbers[name])
            yield counter


class RemoteCounts(Collector):
    """What was asked of a vocabulary in Redis, and how that went.

    ``lookups`` counts a field of a row once, a list as one; ``misses`` the distinct values of
    a request that the cache did not hold.
    """

    lookups, misses, absences, evicted, round_trips = (Number() for _ in range(5))

    def __init__(self, shared: SharedNumbers) -> None:
        names = ["lookups", "misses", "absences", "evicted", "round_trips"]
        self.numbers = Counts(shared, "remote numbers", names)
        self.errors = Counts(shared, "remote errors", REMOTE_ERRORS)
        self.fallbacks = Counts(shared, "remote fallbacks", FALLBACKS)
        self.seconds = Buckets(shared, "remote seconds", LATENCY_BUCKETS)

    def collect(self) -> Iterable[Metric]:
        numbers = self.numbers.totals()
        numbers["hits"] = max(0.0, numbers["lookups"] - numbers["misses"])
        for name, text in (
            ("lookups", "Values looked up"),
            ("hits", "Values that the cache held"),
            ("misses", "Values that the cache did not hold"),
            ("absences", "Values of which Redis said that it has none"),
            ("evicted", "Values and absences that the cache had no more room for"),
        ):
            counter = CounterMetricFamily(f"ctr_vocabulary_{name}", text)
            counter.add_metric([], numbers[name])
            yield counter
        fallbacks = CounterMetricFamily(
            "ctr_vocabulary_fallbacks", "Values that Redis was not there for", labels=["fallback"]
        )
        for fallback, value in self.fallbacks.totals().items():
            fallbacks.add_metric([fallback], value)
        errors = CounterMetricFamily(
            "ctr_redis_errors", "Failed round trips and unusable answers", labels=["reason"]
        )
        for reason, value in self.errors.totals().items():
            errors.add_metric([reason], value)
        trips = CounterMetricFamily("ctr_redis_round_trips", "Questions to Redis for requests")
        trips.add_metric([], numbers["round_trips"])
        seconds = HistogramMetricFamily("ctr_redis_seconds", "Time of a round trip that succeeded")
        seconds.add_metric([], *self.seconds.shown())
        yield from (fallbacks, errors, trips, seconds)


class Watched(Collector):
    """A gauge that a function of each worker gives, whenever it is polled."""

    def __init__(
        self,
        shared: SharedNumbers,
        name: str,
        text: str,
        combine: Callable[[Region], list[float]] = Region.total,
    ) -> None:
        self._name, self._text, self._combine = name, text, combine
        self._region = shared.region(name, 1)
        self.value: Callable[[], float] = float

    def poll(self) -> None:
        """Ask the function."""
        self._region.own[0] = self.value()

    def collect(self) -> Iterable[Metric]:
        gauge = GaugeMetricFamily(self._name, self._text)
        gauge.add_metric([], *self._combine(self._region))
        return [gauge]


class Metrics:
    """The service's metrics, in a registry of their own.

    Unless they are ``enabled``, what passes through the service is not counted.

    What a worker does not count as it happens it looks up when it is polled: before it shows
    its metrics, and now and then for the others to show. Another bundle counts on.
    """

    def __init__(self, shared: SharedNumbers, enabled: bool = True) -> None:
        self.shared = shared
        self.enabled = enabled
        self.registry = CollectorRegistry()
        self.requests = RequestsCollector(shared)
        self.recorder = Recorder(shared)
        for collector in (self.requests, self.recorder):
            self.registry.register(collector)
        self.remote_counts = RemoteCounts(shared)
        self._shown: BundleCounts | None = None
        self._counting: WeakSet[BundleCounts] = WeakSet()
        self._watched: dict[str, Watched] = {}
        self.info = Gauge(
            "ctr_bundle_info", "The bundle, the execution provider in use, why not CUDA, precision",
            ["version", "provider", "provider_fallback", "precision"], registry=self.registry,
        )  # fmt: skip

    def for_route(self, route: str) -> RequestMetrics:
        """What counts the requests of a route."""
        if not self.enabled:
            return RequestMetrics()
        return self.requests.operation if route == OPERATION else self.requests.scoring[route]

    def poll(self) -> None:
        """Look up what changes on its own."""
        for counts in self._counting:
            counts.poll()
        for watched in self._watched.values():
            watched.poll()

    def count_bundle(self, bundle: Bundle, encoder: Encoder) -> BundleCounts:
        """Show values and scores of a bundle, in the place of another's.

        What still runs on the other one is counted for as long as its counts are in use.
        """
        if self._shown is not None:
            self._shown.poll()
            self.registry.unregister(self._shown)
        self._shown = BundleCounts(self.shared, bundle, encoder)
        self._counting.add(self._shown)
        self.registry.register(self._shown)
        return self._shown

    def watch_queue(self, rows: Callable[[], int], abandoned: Callable[[], int]) -> None:
        """Show what waits for the engine, and what is dropped before it."""
        self._watch("ctr_queued_rows", "Rows waiting for the engine", rows)
        dropped = "Requests dropped before the engine: deadline or departed"
        self._watch("ctr_abandoned_requests", dropped, abandoned)

    def watch_remote(self, entries: Callable[[], int], up: Callable[[], bool]) -> None:
        """Show what becomes of a vocabulary in Redis."""
        if "ctr_redis_up" not in self._watched:
            self.registry.register(self.remote_counts)
        self._watch("ctr_vocabulary_cached", "Values and absences in the cache", entries)
        asked = "1 while Redis is asked, 0 while any worker gives it time"
        self._watch("ctr_redis_up", asked, up, Region.least)

    def _watch(
        self,
        name: str,
        text: str,
        value: Callable[[], float],
        combine: Callable[[Region], list[float]] = Region.total,
    ) -> None:
        if name not in self._watched:
            self._watched[name] = Watched(self.shared, name, text, combine)
            self.registry.register(self._watched[name])
        self._watched[name].value = value
