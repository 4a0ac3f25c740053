"""Counts of a bundle: its missing and unseen values, and its scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app.bundle.bundle import Bundle
from app.features.arrays import Floats, Indices
from app.features.encoder import Encoder, SideEncoder
from app.features.graph_inputs import Batch, Scores
from app.features.layout import Slot
from app.metrics.counters import cumulative
from app.metrics.drift import Drift
from app.workers.shared_numbers import SharedNumbers

KEPT_ROWS = 1024
SCORE_BUCKETS = (
    *(0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02),
    *(0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
)


class BundleCounts(Collector):
    """Missing and OOV values by slot beside their shares in training, and scores.

    A list counts as OOV if any value of it is; padding does not count. Batches are kept
    until they have enough rows for one array operation, or until :meth:`poll`.
    """

    def __init__(
        self, shared: SharedNumbers, bundle: Bundle, encoder: Encoder, drift_rows: int = 0
    ) -> None:
        """``drift_rows`` is the length of the window of :class:`Drift`; 0 is without it."""
        layout = bundle.vocabulary.layout
        self._statistics = bundle.manifest.statistics
        self._sides = (
            _SideCounts(shared, layout.context, layout.context_lists, encoder.context),
            _SideCounts(shared, layout.candidate, layout.candidate_lists, encoder.candidate),
        )
        self._scores = ScoreCounts(shared, bundle)
        self.drift: Drift | None = None
        if drift_rows:
            drift = Drift(shared, bundle, encoder.context, encoder.candidate, drift_rows)
            self.drift = drift if drift.watches else None
        self._kept: list[tuple[Batch, Scores]] = []
        self._kept_rows = 0
        self._rows = shared.region("rows", 1)

    def observe(self, batch: Batch, scores: Scores) -> None:
        """Count a run's values, a context's once for each of its rows, and its scores."""
        self._kept.append((batch, scores))
        self._kept_rows += len(batch.candidate)
        if self._kept_rows >= KEPT_ROWS:
            self.poll()

    def count_rows(self, rows: int) -> None:
        """Count rows that another bundle scored beside this one."""
        self._rows.own[0] += rows

    def poll(self) -> bool:
        """Count the batches that were kept; return whether there were any, or are some left."""
        kept, self._kept, self._kept_rows = self._kept, [], 0
        if kept:
            context, candidate = self._sides
            candidates = np.concatenate([batch.candidate for batch, _ in kept])
            context.observe(
                np.concatenate([batch.context for batch, _ in kept]),
                np.concatenate(
                    [np.bincount(b.row_context, minlength=len(b.context)) for b, _ in kept]
                ),
            )
            candidate.observe(candidates)
            self._rows.own[0] += len(candidates)
            self._scores.observe(np.concatenate([scores.score for _, scores in kept]))
            for side in self._sides:
                side.publish()
        if self.drift is not None:
            self.drift.observe(kept)
            return bool(kept) or self.drift.waiting
        return bool(kept)

    def collect(self) -> Iterable[Metric]:
        missing = CounterMetricFamily("ctr_missing_values", "Absent values", labels=["slot"])
        oov = CounterMetricFamily("ctr_oov_values", "Values not in the vocabulary", labels=["slot"])
        trained_missing = GaugeMetricFamily(
            "ctr_training_missing_share",
            "Share of the training part's rows without a value",
            labels=["slot"],
        )
        trained_oov = GaugeMetricFamily(
            "ctr_training_oov_share",
            "Share of the training part's rows with a value too rare",
            labels=["slot"],
        )
        for side in self._sides:
            for slot, absent, unseen in side.totals():
                missing.add_metric([slot.name], absent)
                oov.add_metric([slot.name], unseen)
                trained = self._statistics.get(slot.name)
                if trained is not None:
                    trained_missing.add_metric([slot.name], trained.missing)
                    trained_oov.add_metric([slot.name], trained.oov)
        rows = CounterMetricFamily("ctr_rows", "Rows scored")
        rows.add_metric([], sum(self._rows.total()))
        found = [missing, oov, trained_missing, trained_oov, rows, self._scores.family()]
        return [*found, *self.drift.families()] if self.drift is not None else found


class ScoreCounts:
    """The scores of one bundle, of all workers that serve it.

    All bundles use the same region in turn, or each would take one for good; its first number
    says which bundle the others belong to.
    """

    def __init__(self, shared: SharedNumbers, bundle: Bundle) -> None:
        self._version, self._number = bundle.version, bundle.number
        self._region = shared.region("scores", 1 + len(SCORE_BUCKETS) + 2)
        if self._region.own[0] != self._number:
            self._region.array[:] = 0
            self._region.own[0] = self._number

    def observe(self, scores: Floats) -> None:
        """Count scores, unless another bundle uses the region now."""
        if self._region.own[0] == self._number:
            scores = scores[np.isfinite(scores)]
            places = np.searchsorted(SCORE_BUCKETS, scores)
            self._region.array[1:-1] += np.bincount(places, minlength=len(SCORE_BUCKETS) + 1)
            self._region.array[-1] += scores.sum(dtype=np.float64)

    def family(self) -> Metric:
        """The scores as Prometheus shows them."""
        family = HistogramMetricFamily("ctr_score", "Scores of the bundle", labels=["version"])
        _, *counts, total = self._region.total_of(self._number)
        family.add_metric([self._version], *cumulative(SCORE_BUCKETS, counts, total))
        return family


class _SideCounts:
    def __init__(
        self,
        shared: SharedNumbers,
        single: tuple[Slot, ...],
        lists: tuple[Slot, ...],
        side: SideEncoder,
    ) -> None:
        self._slots = single + lists
        self._single = len(single)
        self._lists = side.shape.lists
        self._first = np.array([slot.missing for slot in self._slots], np.int32)
        self._regions = [
            shared.region(f"missing and OOV of {slot.name}", 2) for slot in self._slots
        ]
        self._missing = np.zeros(len(self._slots), np.int64)
        self._oov = np.zeros(len(self._slots), np.int64)

    def observe(self, rows: Indices, times: NDArray[np.int64] | None = None) -> None:
        """Count the values of rows, each so many ``times`` (or once), for :meth:`publish`."""
        end = self._single
        offset = rows[:, :end] - self._first[:end]
        self._missing[:end] += _counted(offset == 0, times)
        self._oov[:end] += _counted(offset == 1, times)
        for slot, (start, stop) in enumerate(self._lists, end):
            offset = rows[:, start:stop] - self._first[slot]
            self._missing[slot] += _counted((offset == 0).any(1), times)
            self._oov[slot] += _counted((offset == 1).any(1), times)

    def publish(self) -> None:
        """Add the counts to the shared ones, which all bundles with a slot of that name use."""
        counted = zip(self._regions, self._missing.tolist(), self._oov.tolist(), strict=True)
        for region, missing, oov in counted:
            region.own[0] += missing
            region.own[1] += oov
        self._missing[:] = self._oov[:] = 0

    def totals(self) -> Iterable[tuple[Slot, float, float]]:
        for slot, region in zip(self._slots, self._regions, strict=True):
            missing, oov = region.total()
            yield slot, missing, oov


def _counted(marks: NDArray[np.bool_], times: NDArray[np.int64] | None) -> Any:
    """Return the number of marks in each column, each row counting so many times."""
    return np.count_nonzero(marks, axis=0) if times is None else times @ marks
