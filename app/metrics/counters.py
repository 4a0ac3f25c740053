"""Counters and histograms over the numbers that workers share.

The event loop is the only writer of a worker's numbers, so plain additions do;
prometheus_client's own metrics take a lock and walk their buckets for each observation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Protocol

from app.workers.shared_numbers import SharedNumbers

Shown = tuple[list[tuple[str, float]], float]
"""A histogram's cumulative counts by their upper bounds, and the sum of all values."""


class Counts:
    """Counters by name: this worker's can be read and written, ``totals`` are everybody's."""

    __slots__ = ("_own", "_places", "_region")

    def __init__(self, shared: SharedNumbers, name: str, names: Iterable[str]) -> None:
        self._places = {each: place for place, each in enumerate(names)}
        self._region = shared.region(name, len(self._places))
        self._own = self._region.own

    def __getitem__(self, name: str) -> float:
        return self._own[self._places[name]]

    def __setitem__(self, name: str, value: float) -> None:
        self._own[self._places[name]] = value

    def totals(self) -> dict[str, float]:
        """Every counter, added up over the workers."""
        return dict(zip(self._places, self._region.total(), strict=True))


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


class Buckets:
    """One histogram's counts: a bisection and two additions for each observation."""

    __slots__ = ("_own", "_region", "bounds")

    def __init__(self, shared: SharedNumbers, name: str, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._region = shared.region(name, len(bounds) + 2)
        self._own = self._region.own

    def observe(self, value: float) -> None:
        """Count a value."""
        own = self._own
        own[bisect_left(self.bounds, value)] += 1
        own[-1] += value

    def shown(self) -> Shown:
        """The histogram as Prometheus shows it."""
        *counts, total = self._region.total()
        return shown(self.bounds, counts, total)


def shown(bounds: Sequence[float], counts: Iterable[float], total: float) -> Shown:
    """A histogram of these counts, the last one of values above all bounds."""
    names = [*map(str, bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True)), total
