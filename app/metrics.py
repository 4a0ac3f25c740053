"""Every metric that the service shows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from app.batch import Batch, Indices
from app.encoder import SideEncoder
from app.layout import Layout, Slot

LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class ValueCounts(Collector):
    """Missing and OOV values by slot, counted a whole batch at a time.

    A list counts as OOV if any value of it is; padding counts as nothing.
    """

    def __init__(self, layout: Layout, context: SideEncoder, candidate: SideEncoder) -> None:
        self._sides = [
            _SideCounts(layout.context, layout.context_lists, context),
            _SideCounts(layout.candidate, layout.candidate_lists, candidate),
        ]
        self.rows = 0

    def observe(self, batch: Batch) -> None:
        """Count the values of a batch: a context once for each of its rows."""
        self.rows += len(batch.candidate)
        context, candidate = self._sides
        context.observe(batch.context[batch.row_context])
        candidate.observe(batch.candidate)

    def collect(self) -> Iterable[Metric]:
        missing = CounterMetricFamily("ctr_missing_values", "Absent values", labels=["slot"])
        oov = CounterMetricFamily("ctr_oov_values", "Values not in the vocabulary", labels=["slot"])
        for side in self._sides:
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
        columns = [(slot, 1) for slot in single]
        columns += [(slot, end - start) for slot, (start, end) in zip(lists, side.shape.lists,
                                                                      strict=True)]  # fmt: skip
        self._slots = [slot for slot, _ in columns]
        self._starts = np.cumsum([0] + [width for _, width in columns[:-1]])
        self._absent = np.repeat([s.missing for s, _ in columns], [w for _, w in columns])
        self._missing = np.zeros(side.shape.width, np.int64)
        self._oov = np.zeros(side.shape.width, np.int64)

    def observe(self, rows: Indices) -> None:
        offset = rows - self._absent
        self._missing += (offset == 0).sum(0)
        self._oov += (offset == 1).sum(0)

    def totals(self) -> Iterable[tuple[Slot, int, int]]:
        missing = np.add.reduceat(self._missing, self._starts)
        oov = np.add.reduceat(self._oov, self._starts)
        return zip(self._slots, missing.tolist(), oov.tolist(), strict=True)


class Metrics:
    """The service's metrics, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ctr_requests", "Requests answered", ["route", "outcome"], registry=self.registry
        )
        self.latency = Histogram(
            "ctr_request_seconds", "Time from a request's first byte to its answer", ["route"],
            buckets=LATENCY_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.batch_rows = Histogram(
            "ctr_batch_rows", "Rows of one engine run", buckets=ROW_BUCKETS, registry=self.registry
        )
        self.engine_seconds = Histogram(
            "ctr_engine_seconds", "Time of one engine run", buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )  # fmt: skip
        self.unknown_fields = Counter(
            "ctr_unknown_fields", "Fields in requests that the spec does not know",
            registry=self.registry,
        )  # fmt: skip
        self.abandoned = Gauge(
            "ctr_abandoned_requests", "Requests dropped before the engine: deadline or departed",
            registry=self.registry,
        )  # fmt: skip
        self.queued_rows = Gauge(
            "ctr_queued_rows", "Rows waiting for the engine", registry=self.registry
        )
        self.info = Gauge(
            "ctr_bundle_info", "The bundle and the execution provider in use",
            ["version", "provider"], registry=self.registry,
        )  # fmt: skip
