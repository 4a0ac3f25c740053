"""Counts of a trial: the requests of both sides of a canary, and what a shadow would have said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from app.features.graph_inputs import Scores
from app.metrics.counters import Counts, cumulative
from app.metrics.requests import LATENCY_BUCKETS, RequestMetrics
from app.metrics.shadow import ShadowCounts, families
from app.rollout.guard import CAUSES, LATENCY_BOUNDS, Cause, Figures
from app.workers.shared_numbers import SharedNumbers

FAILED = frozenset((429, 500, 503, 504))
"""Answers that say that a bundle, or its service, could not score a request that it should."""
ROLES = ("live", "canary")
_PLAIN = 5


class SideCounts:
    """The requests of one side of a canary, of all workers; a ``split_predict.Counting``.

    All trials use the same region in turn; its first number says which one the others belong to.
    """

    def __init__(self, shared: SharedNumbers, role: str, trial: int) -> None:
        self._trial = trial
        self._region = shared.region(f"trial {role}", 1 + _PLAIN + len(LATENCY_BOUNDS) + 2)
        self._own = self._region.own
        if self._own[0] != trial:
            self._region.array[:] = 0
            self._own[0] = trial

    def scored(self, scores: Scores, begun: float) -> None:
        """Count a request with scores that began at a time of ``perf_counter``."""
        self.note_scores(scores)
        self.answered(perf_counter() - begun)

    def note_scores(self, scores: Scores) -> None:
        """Count the scores of a request; ``answered`` counts its time."""
        rows = len(scores.score)
        if rows:
            self.note_mean(rows, float(scores.score.mean(dtype=np.float64)))

    def note_mean(self, rows: int, mean: float) -> None:
        """Count the mean score of a request."""
        own = self._own
        if own[0] == self._trial:
            own[3] += rows
            own[4] += mean
            own[5] += mean * mean

    def answered(self, seconds: float) -> None:
        """Count the time of a request that was answered with scores."""
        own = self._own
        if own[0] == self._trial:
            own[1] += 1
            own[1 + _PLAIN + int(np.searchsorted(LATENCY_BOUNDS, seconds))] += 1
            own[-1] += seconds

    def failed(self) -> None:
        """Count a request that failed."""
        if self._own[0] == self._trial:
            self._own[2] += 1

    def figures(self) -> Figures:
        """The counts, added up over the workers."""
        _, answered, failed, rows, means, squares, *seconds, _ = self._region.total_of(self._trial)
        return Figures(answered, failed, rows, means, squares, np.array(seconds))

    def seconds(self) -> float:
        """The sum of the seconds, over the workers."""
        return self._region.total_of(self._trial)[-1]


class OnSide(RequestMetrics):
    """The usual counts of a request, and those of its side."""

    def __init__(self, usual: RequestMetrics, side: SideCounts) -> None:
        self._usual = usual
        self._side = side

    def count_answer(self, status: int) -> None:
        self._usual.count_answer(status)
        if status in FAILED:
            self._side.failed()

    def count_refusal(self, reason: str) -> None:
        self._usual.count_refusal(reason)

    def count_departed(self) -> None:
        self._usual.count_departed()
        # A caller that leaves has waited too long, as far as this can tell.
        self._side.failed()

    def observe_latency(self, status: int, seconds: float) -> None:
        self._usual.observe_latency(status, seconds)
        if status == 200:
            self._side.answered(seconds)

    def observe_stages(self, encode: float, queue: float, response: float | None) -> None:
        self._usual.observe_stages(encode, queue, response)


class AfterAnswer(RequestMetrics):
    """The usual counts of a request, and something that is done once its answer is out."""

    def __init__(self, usual: RequestMetrics, then: Callable[[], None]) -> None:
        self._usual = usual
        self._then = then

    def count_answer(self, status: int) -> None:
        self._usual.count_answer(status)

    def count_refusal(self, reason: str) -> None:
        self._usual.count_refusal(reason)

    def count_departed(self) -> None:
        self._usual.count_departed()

    def observe_latency(self, status: int, seconds: float) -> None:
        self._usual.observe_latency(status, seconds)
        if status == 200:
            self._then()

    def observe_stages(self, encode: float, queue: float, response: float | None) -> None:
        self._usual.observe_stages(encode, queue, response)


@dataclass(frozen=True, slots=True)
class ShownTrial:
    """A trial as metrics show it; ``sides`` are the live bundle and the canary."""

    version: str
    mode: str
    share: float
    live: str
    sides: tuple[SideCounts, SideCounts] | None
    shadow: ShadowCounts | None


class TrialMetrics(Collector):
    """The trial that is under way, and how those before it ended."""

    def __init__(self, shared: SharedNumbers) -> None:
        self._ends = Counts(shared, "ends of trials", CAUSES)
        self.shown: ShownTrial | None = None

    def count_end(self, cause: Cause) -> None:
        """Count a trial that this worker saw end: each worker does, and it counts once."""
        self._ends.add(cause)

    def collect(self) -> Iterable[Metric]:
        ended = CounterMetricFamily("ctr_trials_ended", "Trials that ended", labels=["cause"])
        for cause, number in self._ends.most().items():
            ended.add_metric([cause], number)
        yield ended
        share = GaugeMetricFamily(
            "ctr_trial_share",
            "Share of the requests that the bundle on trial takes",
            labels=["version", "mode"],
        )
        shown = self.shown
        if shown is not None:
            share.add_metric([shown.version, shown.mode], shown.share)
        yield share
        yield from _of_sides(shown)
        yield from families(shown.version if shown else "", shown.shadow if shown else None)


def _of_sides(shown: ShownTrial | None) -> Iterable[Metric]:
    labels = ["version", "role"]
    requests = CounterMetricFamily(
        "ctr_trial_requests", "Requests of each side of a canary", labels=[*labels, "outcome"]
    )
    rows = CounterMetricFamily("ctr_trial_rows", "Rows scored by each side", labels=labels)
    seconds = HistogramMetricFamily(
        "ctr_trial_request_seconds", "Time of requests with scores of each side", labels=labels
    )
    scores = SummaryMetricFamily(
        "ctr_trial_mean_score", "Mean scores of the requests of each side", labels=labels
    )
    found_sides: list[tuple[list[str], SideCounts]] = []
    if shown is not None and shown.sides is not None:
        told_sides = [[shown.live, ROLES[0]], [shown.version, ROLES[1]]]
        found_sides = list(zip(told_sides, shown.sides, strict=True))
    for told, side in found_sides:
        found = side.figures()
        requests.add_metric([*told, "answered"], found.answered)
        requests.add_metric([*told, "failed"], found.failed)
        rows.add_metric(told, found.rows)
        scores.add_metric(told, count_value=int(found.answered), sum_value=found.means)
        seconds.add_metric(told, _coarse(found), side.seconds())
    return [requests, rows, seconds, scores]


def _coarse(found: Figures) -> list[tuple[str, float]]:
    """The seconds in the buckets of the other metrics, cumulative; each is at most 15 % away."""
    places = np.searchsorted(LATENCY_BUCKETS, LATENCY_BOUNDS)
    most = len(LATENCY_BUCKETS)
    counts = np.bincount([*np.minimum(places, most), most], found.seconds, most + 1)
    return cumulative(LATENCY_BUCKETS, counts.tolist(), 0.0)[0]
