"""Every metric that the service shows, added up over its workers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app.batch import Batch, Indices
from app.cells import Cells, Part
from app.encoder import SideEncoder
from app.layout import Layout, Slot

LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)

ROUTES = ("predict", "rank")
OUTCOMES = ("200", "400", "413", "415", "422", "429", "500", "503", "504", "gone")
KEPT_ROWS = 1024
REMOTE_ERRORS = ("connection", "timeout", "login", "refused", "sentinel", "value")
FALLBACKS = ("snapshot", "oov", "reject")


class Counts:
    """Counters by name: this worker's can be read and written, ``totals`` are everybody's."""

    __slots__ = ("_own", "_part", "_places")

    def __init__(self, cells: Cells, name: str, names: Iterable[str]) -> None:
        self._places = {each: place for place, each in enumerate(names)}
        self._part = cells.take(name, len(self._places))
        self._own = self._part.own

    def __getitem__(self, name: str) -> float:
        return self._own[self._places[name]]

    def __setitem__(self, name: str, value: float) -> None:
        self._own[self._places[name]] = value

    def totals(self) -> dict[str, float]:
        """Every counter, added up over the workers."""
        return dict(zip(self._places, self._part.total(), strict=True))


class _HasNumbers(Protocol):
    numbers: Counts


class Number:
    """An attribute that is one of its object's ``numbers``."""

    def __set_name__(self, owner: type[object], name: str) -> None:
        self._name = name

    def __get__(self, instance: _HasNumbers, owner: type[object]) -> float:
        return instance.numbers[self._name]

    def __set__(self, instance: _HasNumbers, value: float) -> None:
        instance.numbers[self._name] = value


class ValueCounts(Collector):
    """Missing and OOV values by slot.

    A list counts as OOV if any value of it is; padding counts as nothing. Batches are kept
    until there are enough rows to be worth an array operation, or :meth:`poll`.
    """

    def __init__(
        self, cells: Cells, layout: Layout, context: SideEncoder, candidate: SideEncoder
    ) -> None:
        self._context = _SideCounts(cells, layout.context, layout.context_lists, context)
        self._candidate = _SideCounts(cells, layout.candidate, layout.candidate_lists, candidate)
        self._kept: list[Batch] = []
        self._kept_rows = 0
        self._rows = cells.take("rows", 1)

    def observe(self, batch: Batch) -> None:
        """Count the values of a batch: a context once for each of its rows."""
        self._kept.append(batch)
        self._kept_rows += len(batch.candidate)
        if self._kept_rows >= KEPT_ROWS:
            self.poll()

    def poll(self) -> None:
        """Count what has been kept."""
        kept, self._kept, self._kept_rows = self._kept, [], 0
        if kept:
            candidates = np.concatenate([batch.candidate for batch in kept])
            self._context.observe(
                np.concatenate([batch.context[batch.row_context] for batch in kept])
            )
            self._candidate.observe(candidates)
            self._rows.own[0] += len(candidates)
            self._context.publish()
            self._candidate.publish()

    def collect(self) -> Iterable[Metric]:
        missing = CounterMetricFamily("ctr_missing_values", "Absent values", labels=["slot"])
        oov = CounterMetricFamily("ctr_oov_values", "Values not in the vocabulary", labels=["slot"])
        for side in (self._context, self._candidate):
            for slot, absent, unseen in side.totals():
                missing.add_metric([slot.name], absent)
                oov.add_metric([slot.name], unseen)
        rows = CounterMetricFamily("ctr_rows", "Rows scored")
        rows.add_metric([], sum(self._rows.total()))
        return [missing, oov, rows]


class _SideCounts:
    def __init__(
        self,
        cells: Cells,
        single: tuple[Slot, ...],
        lists: tuple[Slot, ...],
        side: SideEncoder,
    ) -> None:
        self._slots = single + lists
        self._single = len(single)
        self._lists = side.shape.lists
        self._first = np.array([slot.missing for slot in self._slots], np.int32)
        self._parts = [cells.take(f"missing and OOV of {slot.name}", 2) for slot in self._slots]
        self._missing = np.zeros(len(self._slots), np.int64)
        self._oov = np.zeros(len(self._slots), np.int64)

    def observe(self, rows: Indices) -> None:
        """Count the values of rows, for :meth:`publish`."""
        end = self._single
        offset = rows[:, :end] - self._first[:end]
        self._missing[:end] += (offset == 0).sum(0)
        self._oov[:end] += (offset == 1).sum(0)
        for slot, (start, stop) in enumerate(self._lists, end):
            offset = rows[:, start:stop] - self._first[slot]
            self._missing[slot] += (offset == 0).any(1).sum()
            self._oov[slot] += (offset == 1).any(1).sum()

    def publish(self) -> None:
        """Add what was counted to what all workers share; slots of other bundles have it too."""
        counted = zip(self._parts, self._missing.tolist(), self._oov.tolist(), strict=True)
        for part, missing, oov in counted:
            part.own[0] += missing
            part.own[1] += oov
        self._missing[:] = self._oov[:] = 0

    def totals(self) -> Iterable[tuple[Slot, float, float]]:
        for slot, part in zip(self._slots, self._parts, strict=True):
            missing, oov = part.total()
            yield slot, missing, oov


class Buckets:
    """One histogram's counts: a bisection and two additions for each observation."""

    __slots__ = ("_own", "_part", "bounds")

    def __init__(self, cells: Cells, name: str, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._part = cells.take(name, len(bounds) + 2)
        self._own = self._part.own

    def observe(self, value: float) -> None:
        """Count a value."""
        own = self._own
        own[bisect_left(self.bounds, value)] += 1
        own[-1] += value

    def shown(self) -> tuple[list[tuple[str, float]], float]:
        """The cumulative counts and the sum of all values, as Prometheus shows them."""
        *counts, total = self._part.total()
        names = [*map(str, self.bounds), "+Inf"]
        return list(zip(names, accumulate(counts), strict=True)), total


class Recorder(Collector):
    """Requests, and what the engine ran.

    The event loop is the only writer, so plain numbers do; prometheus_client's own metrics
    take a lock and walk their buckets for each observation.
    """

    unknown_fields, refused_bundles, engine_failures = (Number() for _ in range(3))

    def __init__(self, cells: Cells) -> None:
        self.seconds = {
            route: Buckets(cells, f"{route} seconds", LATENCY_BUCKETS) for route in ROUTES
        }
        self.outcomes = {route: Counts(cells, f"{route} outcomes", OUTCOMES) for route in ROUTES}
        self.batch_rows = Buckets(cells, "batch rows", ROW_BUCKETS)
        self.engine_seconds = Buckets(cells, "engine seconds", LATENCY_BUCKETS)
        self.numbers = Counts(
            cells, "numbers", ["unknown_fields", "refused_bundles", "engine_failures"]
        )

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "ctr_requests", "Requests answered", labels=["route", "outcome"]
        )
        latency = HistogramMetricFamily(
            "ctr_request_seconds", "Time from a request's first byte to its answer",
            labels=["route"],
        )  # fmt: skip
        for route in ROUTES:
            for outcome, number in self.outcomes[route].totals().items():
                requests.add_metric([route, outcome], number)
            latency.add_metric([route], *self.seconds[route].shown())
        rows = HistogramMetricFamily("ctr_batch_rows", "Rows of one engine run")
        rows.add_metric([], *self.batch_rows.shown())
        runs = HistogramMetricFamily("ctr_engine_seconds", "Time of one engine run")
        runs.add_metric([], *self.engine_seconds.shown())
        yield from (requests, latency, rows, runs)
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

    def __init__(self, cells: Cells) -> None:
        names = ["lookups", "misses", "absences", "evicted", "round_trips"]
        self.numbers = Counts(cells, "remote numbers", names)
        self.errors = Counts(cells, "remote errors", REMOTE_ERRORS)
        self.fallbacks = Counts(cells, "remote fallbacks", FALLBACKS)
        self.seconds = Buckets(cells, "remote seconds", LATENCY_BUCKETS)

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
        cells: Cells,
        name: str,
        text: str,
        combine: Callable[[Part], list[float]] = Part.total,
    ) -> None:
        self._name, self._text, self._combine = name, text, combine
        self._part = cells.take(name, 1)
        self.value: Callable[[], float] = float

    def poll(self) -> None:
        """Ask the function."""
        self._part.own[0] = self.value()

    def collect(self) -> Iterable[Metric]:
        gauge = GaugeMetricFamily(self._name, self._text)
        gauge.add_metric([], *self._combine(self._part))
        return [gauge]


class Metrics:
    """The service's metrics, in a registry of their own.

    What a worker does not count as it happens it looks up when it is polled: before it shows
    its metrics, and now and then for the others to show. Another bundle counts on.
    """

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self.registry = CollectorRegistry()
        self.recorder = Recorder(cells)
        self.registry.register(self.recorder)
        self.remote_counts = RemoteCounts(cells)
        self._values: ValueCounts | None = None
        self._watched: dict[str, Watched] = {}
        self.info = Gauge(
            "ctr_bundle_info", "The bundle, the execution provider in use, why not CUDA, precision",
            ["version", "provider", "provider_fallback", "precision"], registry=self.registry,
        )  # fmt: skip

    def poll(self) -> None:
        """Look up what changes on its own."""
        if self._values is not None:
            self._values.poll()
        for watched in self._watched.values():
            watched.poll()

    def count_values(
        self, layout: Layout, context: SideEncoder, candidate: SideEncoder
    ) -> ValueCounts:
        """Show missing and OOV values of a bundle's slots, in the place of another's."""
        if self._values is not None:
            self._values.poll()
            self.registry.unregister(self._values)
        self._values = ValueCounts(self.cells, layout, context, candidate)
        self.registry.register(self._values)
        return self._values

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
        self._watch("ctr_redis_up", asked, up, Part.least)

    def _watch(
        self,
        name: str,
        text: str,
        value: Callable[[], float],
        combine: Callable[[Part], list[float]] = Part.total,
    ) -> None:
        if name not in self._watched:
            self._watched[name] = Watched(self.cells, name, text, combine)
            self.registry.register(self._watched[name])
        self._watched[name].value = value
