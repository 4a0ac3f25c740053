"""All metrics of the service, added up over its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakSet

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app import __version__, logs
from app.bundle.bundle import Bundle
from app.features.encoder import Encoder
from app.metrics.bundle import BundleCounts
from app.metrics.counters import Counts, Histogram, counter
from app.metrics.feedback import FeedbackCounts
from app.metrics.processes import ProcessCollector
from app.metrics.profiles import ProfileMetrics
from app.metrics.request_log import RequestLogMetrics
from app.metrics.requests import (
    LATENCY_BUCKETS,
    OPERATION,
    STAGE_BUCKETS,
    RequestMetrics,
    RequestsCollector,
)
from app.metrics.trial import TrialMetrics
from app.scoring.job import CLOSED, Closed
from app.workers.shared_numbers import Region, SharedNumbers

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
REMOTE_ERRORS = ("connection", "timeout", "login", "refused", "sentinel", "value", "mark")
FALLBACKS = ("snapshot", "oov", "reject")
EVENTS = {
    "unknown_fields": "Fields in requests that the spec does not know",
    "engine_failures": "Engine runs that gave no scores",
    "engine_hangs": "Engine runs that did not end in time; each ended its process",
    "explained_rows": "Rows that were scored to explain others",
    "dropped_log_lines": "Log lines that nothing read in time",
}
"""Counters without labels, ``ctr_NAME_total``, and their texts."""
REMOTE_COUNTERS = {
    "lookups": ("ctr_vocabulary_lookups", "Values looked up"),
    "misses": ("ctr_vocabulary_misses", "Values that the cache did not hold"),
    "absences": ("ctr_vocabulary_absences", "Values that Redis does not have"),
    "evicted": ("ctr_vocabulary_evicted", "Values and absences dropped from the full cache"),
    "round_trips": ("ctr_redis_round_trips", "Questions to Redis for requests"),
}
"""Counters of a vocabulary in Redis: their metrics and texts.

``lookups`` counts a field of a row once, a list as one; ``misses`` the distinct values of a
request that the cache did not hold.
"""


class EngineMetrics(Collector):
    """Runs of the engine: their rows, their seconds, and why their batch was closed."""

    def __init__(self, shared: SharedNumbers) -> None:
        self._rows = Histogram(shared, "batch rows", ROW_BUCKETS)
        self._seconds = Histogram(shared, "engine seconds", STAGE_BUCKETS)
        self._closed = Counts(shared, "batches closed", CLOSED)

    def observe(self, rows: int, seconds: float, closed: Closed) -> None:
        """Count a run of the engine."""
        self._rows.observe(rows)
        self._seconds.observe(seconds)
        self._closed.add(closed)

    def collect(self) -> Iterable[Metric]:
        rows = HistogramMetricFamily("ctr_batch_rows", "Rows of one engine run")
        rows.add_metric([], *self._rows.cumulative())
        runs = HistogramMetricFamily("ctr_engine_seconds", "Time of one engine run")
        runs.add_metric([], *self._seconds.cumulative())
        text = "Engine runs, by why their batch took no more rows"
        return [rows, runs, self._closed.labelled("ctr_batches", text, "closed")]


class EventsCollector(Collector):
    """Shows the counters of ``EVENTS``."""

    def __init__(self, events: Counts) -> None:
        self._events = events

    def collect(self) -> Iterable[Metric]:
        totals = self._events.totals()
        return [counter(f"ctr_{name}", text, totals[name]) for name, text in EVENTS.items()]


class RefusedBundles(Collector):
    """Bundles that were refused: each worker refuses each of them, which counts once."""

    def __init__(self, shared: SharedNumbers) -> None:
        self._region = shared.region("refused bundles", 1)

    def add(self) -> None:
        """Count a bundle that this worker refused."""
        self._region.own[0] += 1

    def collect(self) -> Iterable[Metric]:
        text = "Bundles that could not take the place of the one in use"
        return [counter("ctr_refused_bundles", text, self._region.most()[0])]


class WorkerRestarts(Collector):
    """Workers that took the place of a dead one."""

    def __init__(self, shared: SharedNumbers) -> None:
        self._shared = shared

    def collect(self) -> Iterable[Metric]:
        text = "Workers that were started in the place of a dead one"
        return [counter("ctr_worker_restarts", text, self._shared.restarts)]


class ItemLookups(Collector):
    """Ids in requests, by whether the catalogue has them."""

    def __init__(self, shared: SharedNumbers) -> None:
        self._counts = Counts(shared, "item lookups", ("known", "unknown"))

    def count(self, known: int, unknown: int) -> None:
        """Count the ids of a request."""
        self._counts.add("known", known)
        self._counts.add("unknown", unknown)

    def collect(self) -> Iterable[Metric]:
        text = "Ids in requests, by whether the catalogue has them"
        return [self._counts.labelled("ctr_catalogue_lookups", text, "outcome")]


class RemoteMetrics(Collector):
    """Requests to a vocabulary in Redis: ``counts`` by ``REMOTE_COUNTERS``, errors, seconds."""

    def __init__(self, shared: SharedNumbers) -> None:
        self.counts = Counts(shared, "remote numbers", REMOTE_COUNTERS)
        self.errors = Counts(shared, "remote errors", REMOTE_ERRORS)
        self.fallbacks = Counts(shared, "remote fallbacks", FALLBACKS)
        self.seconds = Histogram(shared, "remote seconds", LATENCY_BUCKETS)

    def collect(self) -> Iterable[Metric]:
        totals = self.counts.totals()
        for name, (metric, text) in REMOTE_COUNTERS.items():
            yield counter(metric, text, totals[name])
        hits = max(0.0, totals["lookups"] - totals["misses"])
        yield counter("ctr_vocabulary_hits", "Values that the cache held", hits)
        yield self.fallbacks.labelled(
            "ctr_vocabulary_fallbacks", "Values looked up without Redis", "fallback"
        )
        yield self.errors.labelled(
            "ctr_redis_errors", "Failed round trips and unusable answers", "reason"
        )
        seconds = HistogramMetricFamily("ctr_redis_seconds", "Time of a round trip that succeeded")
        seconds.add_metric([], *self.seconds.cumulative())
        yield seconds


class PolledGauge(Collector):
    """A number that a function gives when asked, of all workers together."""

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

    def poll(self) -> bool:
        """Ask the function; return whether the number has changed."""
        before, now = self._region.own[0], float(self.value())
        self._region.own[0] = now
        return now != before

    def collect(self) -> Iterable[Metric]:
        gauge = GaugeMetricFamily(self._name, self._text)
        gauge.add_metric([], *self._combine(self._region))
        return [gauge]


class Metrics:
    """The service's metrics, in a registry of their own.

    Unless they are ``enabled``, requests and their rows are not counted. ``drift_rows`` is the
    length of the window that is compared with the training part; 0 is none.

    Numbers that are not counted as they change are looked up by :meth:`poll`: before this worker
    shows its metrics, and at intervals for the others to show. They are kept when another bundle
    takes over.
    """

    def __init__(self, shared: SharedNumbers, enabled: bool = True, drift_rows: int = 0) -> None:
        self.shared = shared
        self._drift_rows = drift_rows if enabled else 0
        self.enabled = enabled
        self.registry = CollectorRegistry()
        self.requests = RequestsCollector(shared)
        self.engine = EngineMetrics(shared)
        self.events = Counts(shared, "events", EVENTS)
        self.refused_bundles = RefusedBundles(shared)
        self.remote = RemoteMetrics(shared)
        self.lookups = ItemLookups(shared)
        self.profiles = ProfileMetrics(shared)
        self.feedback = FeedbackCounts(shared)
        for collector in (self.requests, self.engine, EventsCollector(self.events)):
            self.registry.register(collector)
        self.registry.register(self.refused_bundles)
        self.trial = TrialMetrics(shared)
        self.registry.register(self.trial)
        self._bundle: BundleCounts | None = None
        self._counting: WeakSet[BundleCounts] = WeakSet()
        self._gauges: dict[str, PolledGauge] = {}
        self.build = Gauge(
            "ctr_build_info", "The version of this program", ["version"], registry=self.registry
        )
        self.build.labels(__version__).set(1)
        self.registry.register(WorkerRestarts(shared))
        self.registry.register(ProcessCollector(shared))
        self.created = Gauge(
            "ctr_bundle_created_timestamp_seconds",
            "When the bundle in use was trained, in seconds since 1970",
            registry=self.registry,
        )
        self.info = Gauge(
            "ctr_bundle_info",
            "The bundle, the execution provider in use, why not CUDA, precision",
            ["version", "provider", "provider_fallback", "precision"],
            registry=self.registry,
        )

    def for_route(self, route: str) -> RequestMetrics:
        """Return the counters of a route's requests."""
        if not self.enabled:
            return RequestMetrics()
        return self.requests.operation if route == OPERATION else self.requests.scoring[route]

    def poll(self) -> bool:
        """Look up the numbers that are not counted as they change; return whether any has."""
        self.events.add("dropped_log_lines", logs.take_dropped())
        changed = [counts.poll() for counts in self._counting]
        changed += [gauge.poll() for gauge in self._gauges.values()]
        return any(changed)

    def count_bundle(self, bundle: Bundle, encoder: Encoder) -> BundleCounts:
        """Show values and scores of a bundle, in the place of another's.

        Runs of the other bundle are counted for as long as its counts are in use.
        """
        if self._bundle is not None:
            self._bundle.poll()
            self.registry.unregister(self._bundle)
        self._bundle = BundleCounts(self.shared, bundle, encoder, self._drift_rows)
        self._counting.add(self._bundle)
        self.registry.register(self._bundle)
        return self._bundle

    def count_rows(self, rows: int) -> None:
        """Count rows that a bundle on trial scored for requests."""
        if self._bundle is not None:
            self._bundle.count_rows(rows)

    def drift(self) -> dict[str, Any] | None:
        """The drift of the bundle in use; None where it is not watched."""
        if self._bundle is None or self._bundle.drift is None:
            return None
        self._bundle.poll()
        return self._bundle.drift.report()

    def watch_queue(self, rows: Callable[[], int], abandoned: Callable[[], int]) -> None:
        """Show the rows that wait for the engine, and the requests dropped before it."""
        self._watch("ctr_queued_rows", "Rows waiting for the engine", rows)
        dropped = "Requests dropped before the engine: deadline or departed"
        self._watch("ctr_abandoned_requests", dropped, abandoned)

    def watch_directory(
        self,
        usable: Callable[[], bool],
        unreadable: Callable[[], int],
        waiting: Callable[[], int],
        held: Callable[[], int],
    ) -> None:
        """Show the state of the directory of bundles at the last look."""
        text = "0 while no bundle can be found: CURRENT is unusable, so the next start would fail"
        self._watch("ctr_bundles_usable", text, usable, Region.least)
        text = "Bundles of the directory that cannot be read"
        self._watch("ctr_unreadable_bundles", text, unreadable, Region.most)
        text = "Bundles that wait to be activated, as their requests differ"
        self._watch("ctr_waiting_bundles", text, waiting, Region.most)
        text = "Bundles that did not pass the gate"
        self._watch("ctr_held_bundles", text, held, Region.most)

    def watch_remote(
        self, entries: Callable[[], int], up: Callable[[], bool], marked: Callable[[], bool]
    ) -> None:
        """Show the state of a vocabulary in Redis."""
        if "ctr_redis_up" not in self._gauges:
            self.registry.register(self.remote)
        self._watch("ctr_vocabulary_cached", "Values and absences in the cache", entries)
        asked = "1 while every worker asks Redis, 0 while any one waits for it to recover"
        self._watch("ctr_redis_up", asked, up, Region.least)
        kept = "0 while Redis refuses to mark the vocabulary as in use, so prune may remove it"
        self._watch("ctr_redis_marked", kept, marked, Region.least)

    def watch_catalogue(
        self,
        items: Callable[[], int],
        refused: Callable[[], int],
        followed: Callable[[], bool],
        parts: Callable[[], int],
        change: Callable[[], int],
        behind: Callable[[], float],
    ) -> None:
        """Show the state of the catalogue."""
        if "ctr_catalogue_items" not in self._gauges:
            self.registry.register(self.lookups)
        self._watch("ctr_catalogue_items", "Items that can be ranked", items, Region.least)
        text = "Items that the spec of the bundle in use refuses"
        self._watch("ctr_catalogue_refused_items", text, refused, Region.most)
        text = "1 while every worker follows the store, 0 while any one has an old catalogue"
        self._watch("ctr_catalogue_followed", text, followed, Region.least)
        text = "Items whose part of the network is computed before requests come"
        self._watch("ctr_catalogue_item_parts", text, parts, Region.least)
        text = "Number of the store's last change that every worker uses"
        self._watch("ctr_catalogue_change_number", text, change, Region.least)
        text = "Time since all workers had every change of the store"
        self._watch("ctr_catalogue_behind_seconds", text, behind, Region.most)

    def watch_request_log(self, counts: RequestLogMetrics, writes: Callable[[], bool]) -> None:
        """Show the lines of the request log, and its state."""
        self.registry.register(counts)
        text = "1 while every worker writes the request log, 0 while the disk of one takes nothing"
        self._watch("ctr_request_log_up", text, writes, Region.least)

    def watch_feedback(self) -> None:
        """Show what events tell of the versions."""
        self.registry.register(self.feedback)

    def watch_profiles(self, remembered: Callable[[], int], up: Callable[[], bool]) -> None:
        """Show the state of the profiles."""
        if "ctr_profiles_up" not in self._gauges:
            self.registry.register(self.profiles)
        text = "Profiles, and absences of one, that are remembered"
        self._watch("ctr_profiles_remembered", text, remembered)
        text = "1 while every worker asks the store, 0 while any one waits for it to recover"
        self._watch("ctr_profiles_up", text, up, Region.least)

    def _watch(
        self,
        name: str,
        text: str,
        value: Callable[[], float],
        combine: Callable[[Region], list[float]] = Region.total,
    ) -> None:
        if name not in self._gauges:
            self._gauges[name] = PolledGauge(self.shared, name, text, combine)
            self.registry.register(self._gauges[name])
        self._gauges[name].value = value
