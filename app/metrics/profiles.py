"""Metrics of profiles."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.metrics.counters import Counts, Histogram
from app.metrics.requests import LATENCY_BUCKETS
from app.workers.shared_numbers import SharedNumbers

OUTCOMES = ("found", "absent", "unavailable")
ERRORS = ("timeout", "failed")


class ProfileMetrics(Collector):
    """Look-ups of profiles by their outcome; round trips to the store, and those that failed."""

    def __init__(self, shared: SharedNumbers) -> None:
        self.lookups = Counts(shared, "profile lookups", OUTCOMES)
        self.errors = Counts(shared, "profile errors", ERRORS)
        self.seconds = Histogram(shared, "profile seconds", LATENCY_BUCKETS)

    def count(self, found: int, absent: int, unavailable: int) -> None:
        """Count look-ups of a request."""
        for outcome, amount in zip(OUTCOMES, (found, absent, unavailable), strict=True):
            self.lookups.add(outcome, amount)

    def collect(self) -> Iterable[Metric]:
        text = "Profiles that contexts asked for, by whether there is one"
        yield self.lookups.labelled("ctr_profile_lookups", text, "outcome")
        text = "Round trips for profiles that failed"
        yield self.errors.labelled("ctr_profile_errors", text, "reason")
        seconds = HistogramMetricFamily(
            "ctr_profile_seconds", "Time of a round trip for profiles that succeeded"
        )
        seconds.add_metric([], *self.seconds.cumulative())
        yield seconds
