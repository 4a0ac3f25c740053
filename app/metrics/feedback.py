"""Calibration of what was served, as events tell it: sums by version and by the score's bin."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from app.bundle.bundle import number_of
from app.metrics.bundle import SCORE_BUCKETS
from app.metrics.counters import Counts
from app.workers.shared_numbers import SharedNumbers

VERSIONS = 8
"""Versions that have counts of their own: those that were served last."""
OTHER = "other"
OUTCOMES = ("accepted", "wrong", "unwritten")
SMALLEST = 1e-7
"""A score nearer to 0 or 1 counts as this far from it, so that its loss is finite."""
_BINS = len(SCORE_BUCKETS) + 1
SUMS = {
    "labels": "Events with a label, a version and a score, by the score's bin",
    "clicks": "Their labels that are 1",
    "predicted": "Their scores, added up",
    "log_loss": "Their log losses, added up",
}


class Calibration(NamedTuple):
    """Sums over the labelled events of a version."""

    labels: float
    clicks: float
    predicted: float
    log_loss: float


class FeedbackCounts(Collector):
    """Sums over labelled events, of all workers: exact, as each event counts where it came."""

    def __init__(self, shared: SharedNumbers) -> None:
        self.events = Counts(shared, "feedback events", OUTCOMES)
        # A version has a slot in each worker, not the same one in all; the first number says whose
        # the others are. The last slot is that of versions that were never served.
        self._slots = [
            shared.region(f"feedback {slot}", 1 + len(SUMS) * _BINS) for slot in range(VERSIONS + 1)
        ]
        self._names: dict[int, str] = {}
        """The versions of the slots, the one that was served last at the end."""

    def serve(self, version: str) -> None:
        """Note that a version is served: its events count by its name from now on."""
        number = number_of(version)
        self._names.pop(number, None)
        self._names[number] = version
        while len(self._names) > VERSIONS:
            self._names.pop(next(iter(self._names)))
        numbers = [slot.own[0] for slot in self._slots[:VERSIONS]]
        if number not in numbers:
            free = next(slot for slot in self._slots[:VERSIONS] if slot.own[0] not in self._names)
            free.array[1:] = 0.0
            free.own[0] = number

    def knows(self, version: str) -> bool:
        """True if a version has counts of its own."""
        return version in self._names.values()

    def count(self, version: str, score: float, label: int) -> None:
        """Count a label of a row that a version gave a score."""
        slot = self._slots[VERSIONS]
        if self.knows(version):
            number = number_of(version)
            slot = next(each for each in self._slots if each.own[0] == number)
        bounded = min(max(score, SMALLEST), 1 - SMALLEST)
        place = 1 + bisect_left(SCORE_BUCKETS, score)
        loss = -math.log(bounded if label else 1 - bounded)
        for number, amount in enumerate((1.0, float(label), score, loss)):
            slot.own[place + number * _BINS] += amount

    def of(self, version: str) -> Calibration:
        """Return the sums of a version, of all workers."""
        sums = self._total(number_of(version)).sum(1)
        return Calibration(*sums.tolist())

    def _total(self, number: int) -> NDArray[np.float64]:
        """Return the numbers [sums, bins] of a version, of all workers."""
        found = np.zeros(len(SUMS) * _BINS)
        for slot in self._slots if number else self._slots[VERSIONS:]:
            found += slot.total_of(number)[1:]
        return found.reshape(len(SUMS), _BINS)

    def collect(self) -> Iterable[Metric]:
        text = "Events, by what became of them"
        yield self.events.labelled("ctr_feedback_events", text, "outcome")
        totals = {name: self._total(number) for number, name in self._names.items()}
        totals[OTHER] = self._total(0)
        bounds = [*map(str, SCORE_BUCKETS), "1.0"]
        for place, (name, text) in enumerate(SUMS.items()):
            family = CounterMetricFamily(f"ctr_feedback_{name}", text, labels=["version", "up_to"])
            for version, total in totals.items():
                for bound, value in zip(bounds, total[place].tolist(), strict=True):
                    family.add_metric([version, bound], value)
            yield family
