"""Metrics of the request log."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from app.metrics.counters import Counts, counter
from app.workers.shared_numbers import SharedNumbers

DROPPED = ("queue", "disk", "failed")


class RequestLogMetrics(Collector):
    """Lines that were written, lines that were dropped, and why.

    The event loop counts the queue's, the log's thread everything else: each number has one
    writer.
    """

    def __init__(self, shared: SharedNumbers) -> None:
        self._written = Counts(shared, "request log", ("lines", "bytes", "changed"))
        self._dropped = Counts(shared, "request log dropped", DROPPED)

    def count_written(self, lines: int, size: int) -> None:
        """Count lines in the log, and the bytes that they take."""
        self._written.add("lines", lines)
        self._written.add("bytes", size)

    def count_changed(self, items: int) -> None:
        """Count items that are not as they were scored any more: without their values."""
        self._written.add("changed", items)

    def count_queue_full(self) -> None:
        """Count a line for which the queue had no room."""
        self._dropped.add("queue")

    def count_unwritten(self, lines: int) -> None:
        """Count lines that the disk did not take."""
        self._dropped.add("disk", lines)

    def count_unreadable(self) -> None:
        """Count a request of which no line could be made."""
        self._dropped.add("failed")

    def collect(self) -> Iterable[Metric]:
        written = self._written.totals()
        yield counter("ctr_request_log_lines", "Requests in the log", written["lines"])
        yield counter("ctr_request_log_bytes", "Bytes of the log, compressed", written["bytes"])
        yield counter(
            "ctr_request_log_changed_items",
            "Candidates without their values, as their item changed meanwhile",
            written["changed"],
        )
        text = "Requests that should be in the log and are not, by why"
        yield self._dropped.labelled("ctr_request_log_dropped", text, "reason")
