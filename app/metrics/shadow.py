"""Counts of a shadow: how its scores differ from those that were answered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from app.metrics.counters import cumulative
from app.rollout.comparison import Comparison
from app.workers.shared_numbers import SharedNumbers

OUTCOMES = ("scored", "unlike", "dropped", "failed")
"""The fate of a request of a shadow's share: compared; scored, but with no row in common; no idle
time, or no room for it; it has no scores."""
DIFFERENCE_BOUNDS: NDArray[np.float64] = 1e-6 * 10.0 ** (np.arange(65) / 8)
"""Upper bounds of the counted differences of logits: 1e-6 to 100, eight to a power of ten."""
SHOWN_BOUNDS = DIFFERENCE_BOUNDS[8::8]
_SUMS = 9
"""Numbers of :class:`ShadowFigures` before its bins."""
_PLAIN = 1 + len(OUTCOMES)


class ShadowFigures(NamedTuple):
    """Sums over the requests that were compared; ``bins`` counts rows by the size of their
    difference, as :data:`DIFFERENCE_BOUNDS` divide it.
    """

    rows: float
    differences: float
    sizes: float
    live_scores: float
    scores: float
    tops: float
    shared: float
    live_seconds: float
    seconds: float
    bins: NDArray[np.float64]
    outcomes: dict[str, float]

    def quantile(self, share: float) -> float | None:
        """The size of difference that a share of the rows does not pass, at most 33 % too large."""
        if not self.rows:
            return None
        place = int(np.searchsorted(np.cumsum(self.bins), share * self.rows))
        return float(DIFFERENCE_BOUNDS[min(place, len(DIFFERENCE_BOUNDS) - 1)])


class ShadowCounts:
    """Counts of one trial, of all workers. All trials use the same region in turn."""

    def __init__(self, shared: SharedNumbers, trial: int) -> None:
        self._trial = trial
        size = _PLAIN + _SUMS + len(DIFFERENCE_BOUNDS) + 1
        self._region = shared.region("trial shadow", size)
        if self._region.own[0] != trial:
            self._region.array[:] = 0
            self._region.own[0] = trial

    def count(self, outcome: str) -> None:
        """Count what became of a request."""
        if self._region.own[0] == self._trial:
            self._region.own[1 + OUTCOMES.index(outcome)] += 1

    def compared(self, found: Comparison, live_seconds: float, seconds: float) -> None:
        """Count a comparison, and the seconds of both engines for it."""
        self.count("scored")
        if self._region.own[0] != self._trial:
            return
        top = found.shared_top
        sums = (
            len(found.differences),
            float(found.differences.sum(dtype=np.float64)),
            float(np.abs(found.differences).sum(dtype=np.float64)),
            found.live_score,
            found.shadow_score,
            top is not None,
            top or 0.0,
            live_seconds,
            seconds,
        )
        array = self._region.array
        array[_PLAIN : _PLAIN + _SUMS] += sums
        places = np.searchsorted(DIFFERENCE_BOUNDS, np.abs(found.differences))
        array[_PLAIN + _SUMS :] += np.bincount(places, minlength=len(DIFFERENCE_BOUNDS) + 1)

    def figures(self) -> ShadowFigures:
        """The counts, added up over the workers."""
        found = self._region.total_of(self._trial)
        outcomes = dict(zip(OUTCOMES, found[1:_PLAIN], strict=True))
        rows, shift, sizes, live_scores, scores, tops, shared, live, own, *bins = found[_PLAIN:]
        return ShadowFigures(
            rows,
            shift,
            sizes,
            live_scores,
            scores,
            tops,
            shared,
            live,
            own,
            np.array(bins),
            outcomes,
        )


def families(version: str, counts: ShadowCounts | None) -> Iterable[Metric]:
    """A shadow as Prometheus shows it; without one the metrics have no samples."""
    label = ["version"]
    requests = CounterMetricFamily(
        "ctr_shadow_requests", "Requests of a shadow's share", labels=["version", "outcome"]
    )
    size = HistogramMetricFamily(
        "ctr_shadow_logit_difference", "Size of a row's difference of logits", labels=label
    )
    shift = GaugeMetricFamily(
        "ctr_shadow_logit_shift", "Mean of a shadow's logits less the answered ones", labels=label
    )
    top = SummaryMetricFamily(
        "ctr_shadow_shared_top", "Share of the first places that both rank there", labels=label
    )
    scores = GaugeMetricFamily(
        "ctr_shadow_mean_score", "Mean score of the compared rows", labels=["version", "role"]
    )
    seconds = SummaryMetricFamily(
        "ctr_shadow_engine_seconds", "Time of both engines", labels=["version", "role"]
    )
    if counts is not None:
        found = counts.figures()
        for outcome, number in found.outcomes.items():
            requests.add_metric([version, outcome], number)
        places = np.searchsorted(SHOWN_BOUNDS, DIFFERENCE_BOUNDS)
        bins = np.bincount([*places, len(SHOWN_BOUNDS)], found.bins, len(SHOWN_BOUNDS) + 1)
        bounds = [float(f"{bound:.6g}") for bound in SHOWN_BOUNDS]
        buckets, _ = cumulative(bounds, bins.tolist(), 0.0)
        size.add_metric([version], buckets, found.sizes)
        number = int(found.outcomes["scored"])
        top.add_metric([version], int(found.tops), found.shared)
        for role, score, taken in (
            ("live", found.live_scores, found.live_seconds),
            ("shadow", found.scores, found.seconds),
        ):
            seconds.add_metric([version, role], number, taken)
            if found.rows:
                scores.add_metric([version, role], score / found.rows)
        if found.rows:
            shift.add_metric([version], found.differences / found.rows)
    return [requests, size, shift, top, scores, seconds]
