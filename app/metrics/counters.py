"""Counters and histograms over the numbers that workers share.

The event loop is the only writer of a worker's numbers, so plain additions are safe;
prometheus_client's own metrics take a lock and walk their buckets for each observation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily

from app.workers.shared_numbers import SharedNumbers

Cumulative = tuple[list[tuple[str, float]], float]
"""A histogram's cumulative counts by their upper bounds, and the sum of all values."""


class Counts:
    """Counters by name: ``add`` counts in this worker, ``totals`` adds up all workers."""

    __slots__ = ("_own", "_places", "_region")

    def __init__(self, shared: SharedNumbers, name: str, names: Iterable[str]) -> None:
        self._places = {each: place for place, each in enumerate(names)}
        self._region = shared.region(name, len(self._places))
        self._own = self._region.own

    def add(self, name: str, amount: float = 1.0) -> None:
        """Add to a counter."""
        self._own[self._places[name]] += amount

    def __getitem__(self, name: str) -> float:
        """This worker's count."""
        return self._own[self._places[name]]

    def totals(self) -> dict[str, float]:
        """Every counter, added up over the workers."""
        return dict(zip(self._places, self._region.total(), strict=True))

    def most(self) -> dict[str, float]:
        """Every counter of the worker that has counted most of it: of what each of them counts."""
        return dict(zip(self._places, self._region.most(), strict=True))

    def labelled(self, metric: str, text: str, label: str) -> CounterMetricFamily:
        """One Prometheus counter, whose ``label`` is the name of each of these."""
        return labelled_counter(metric, text, label, self.totals())


class Histogram:
    """One histogram's counts: a bisection and two additions for each observation."""

    __slots__ = ("_bounds", "_own", "_region")

    def __init__(self, shared: SharedNumbers, name: str, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._region = shared.region(name, len(bounds) + 2)
        self._own = self._region.own

    def observe(self, value: float) -> None:
        """Count a value."""
        own = self._own
        own[bisect_left(self._bounds, value)] += 1
        own[-1] += value

    def cumulative(self) -> Cumulative:
        """The arguments of ``HistogramMetricFamily.add_metric``, added up over the workers."""
        *counts, total = self._region.total()
        return cumulative(self._bounds, counts, total)


def cumulative(bounds: Sequence[float], counts: Iterable[float], total: float) -> Cumulative:
    """A histogram of these counts, the last one of values above all bounds."""
    names = [*map(str, bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True)), total


def counter(metric: str, text: str, value: float) -> CounterMetricFamily:
    """A Prometheus counter without labels."""
    family = CounterMetricFamily(metric, text)
    family.add_metric([], value)
    return family


def labelled_counter(
    metric: str, text: str, label: str, values: Mapping[str, float]
) -> CounterMetricFamily:
    """A Prometheus counter with a value for each value of its label."""
    family = CounterMetricFamily(metric, text, labels=[label])
    for name, value in values.items():
        family.add_metric([name], value)
    return family
