"""Drift: the values and scores of a sliding window beside those that the bundle was trained on.

The population stability index (PSI) of a slot is the sum over its bins of (p - q) ln(p / q), where
q is a bin's share in the training part and p that in the window (Siddiqi, Credit Risk Scorecards,
2006, chapter 10; it is the Jeffreys divergence). The Jensen-Shannon distance is the square root of
the Jensen-Shannon divergence to base 2 (Lin 1991; Endres and Schindelin 2003). Half a count is
added to every bin, so that an empty one is no infinity.

Without any drift the PSI is not 0: (1/n + 1/m) times a chi-squared variable with B - 1 degrees of
freedom, for B bins and samples of n and m (Yurdakul and Naranjo 2020). A slot is marked beyond that
and beyond what a change is worth looking at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import GaugeMetricFamily, Metric

from app.bundle.bundle import Bundle
from app.bundle.manifest import SlotHistogram
from app.features.arrays import Indices
from app.features.encoder import SideEncoder
from app.features.graph_inputs import Batch, Scores
from app.features.layout import PADDING, Slot
from app.workers.shared_numbers import SharedNumbers

SAMPLE_ROWS, SAMPLE_SECONDS = 512, 0.9
"""Most rows that are counted at a time, and the least time between two times: what bounds the
cost. The shares of a sample are those of all."""
PIECES = 10
"""Parts of the window; the oldest leaves as a whole."""
MOST_BINS = 2**13
"""Bins of all slots; slots beyond them are not watched."""
MOST_SCORE_BINS = 2**7
WORTH = 0.05
"""PSI up to which a change is not worth looking at, however certain it is."""
DEVIATIONS = 4.0
"""Standard deviations of the PSI of windows without drift that are allowed."""
_HALF = 0.5
Counts = NDArray[np.float64]


class Difference(NamedTuple):
    """The difference of a window from the training part, and the PSI up to which it is chance."""

    psi: float
    js_distance: float
    threshold: float

    @property
    def drifted(self) -> bool:
        """True if the difference is neither chance nor too small to matter."""
        return self.psi > self.threshold


def difference(window: Counts, trained: Counts) -> Difference | None:
    """Compare counts of the same bins; None where either has none."""
    n, m = float(window.sum()), float(trained.sum())
    if not n or not m:
        return None
    p = (window + _HALF) / (n + _HALF * len(window))
    q = (trained + _HALF) / (m + _HALF * len(trained))
    middle = (p + q) / 2
    divergence = float(p @ np.log2(p / middle) + q @ np.log2(q / middle)) / 2
    freedom = max(1, len(window) - 1)
    chance = (freedom + DEVIATIONS * sqrt(2 * freedom)) * (1 / n + 1 / m)
    return Difference(float((p - q) @ np.log(p / q)), sqrt(max(0.0, divergence)), WORTH + chance)


class SlotBins:
    """The bins of a slot: missing, OOV, then its buckets, or its frequent values and the rest."""

    def __init__(self, slot: Slot, columns: slice, histogram: SlotHistogram) -> None:
        """``columns`` are those of the slot in its side's rows."""
        self.slot = slot
        self._columns = columns
        known = histogram.buckets if histogram.buckets is not None else histogram.counts or ()
        counts = [histogram.missing, histogram.oov, *known]
        self.names = ["missing", "oov", *map(str, range(len(known)))]
        frequent = np.array(histogram.frequent or (), np.int64)
        self._buckets = histogram.buckets is not None
        if not self._buckets:
            counts.append(histogram.rest)
            self.names.append("rest")
        self._order = np.argsort(frequent, kind="stable")
        self._frequent = frequent[self._order]
        self.trained = np.array(counts, np.float64)

    def count(self, rows: Indices) -> NDArray[np.int64]:
        """Count the values of rows; a list has several in a row."""
        indices = rows[:, self._columns].ravel()
        places = indices[indices != PADDING] - self.slot.first
        bins = len(self.trained)
        if not self._buckets:
            known = places >= 2
            places[known] = self._place(places[known] + self.slot.first)
        return np.bincount(np.minimum(places, bins - 1), minlength=bins)

    def _place(self, indices: Indices) -> NDArray[np.int64]:
        """Return the bins of known values."""
        if not len(self._frequent):
            return np.full(len(indices), 2, np.int64)
        spots = np.minimum(np.searchsorted(self._frequent, indices), len(self._frequent) - 1)
        found = self._frequent[spots] == indices
        rest = len(self.trained) - 1
        return np.where(found, 2 + self._order[spots], rest)


@dataclass(frozen=True, slots=True)
class _Watched:
    """A slot with its place among the numbers of all, and its side."""

    bins: SlotBins
    start: int
    of_context: bool

    @property
    def range(self) -> slice:
        return slice(self.start, self.start + len(self.bins.trained))


class Drift:
    """The sliding window of one bundle, over all workers that serve it.

    A context counts once for each request, a candidate for each row. A worker samples what it
    scores, and keeps its part of the window.
    """

    def __init__(
        self,
        shared: SharedNumbers,
        bundle: Bundle,
        context: SideEncoder,
        candidate: SideEncoder,
        rows: int,
    ) -> None:
        """``rows`` is the length of the window, of all workers."""
        self._version, self._number = bundle.version, bundle.number
        layout, manifest = bundle.vocabulary.layout, bundle.manifest
        sides = (
            (True, layout.context, layout.context_lists, context),
            (False, layout.candidate, layout.candidate_lists, candidate),
        )
        self._watched: list[_Watched] = []
        self.unwatched: list[str] = []
        """Slots beyond ``MOST_BINS``."""
        end = 0
        for of_context, single, lists, side in sides:
            for slot, columns in _columns(single, lists, side):
                known = manifest.statistics.get(slot.name)
                if known is None or known.histogram is None:
                    continue
                bins = SlotBins(slot, columns, known.histogram)
                if end + len(bins.trained) > MOST_BINS:
                    self.unwatched.append(slot.name)
                    continue
                self._watched.append(_Watched(bins, end, of_context))
                end += len(bins.trained)
        scores = manifest.scores
        self._scores = scores if scores and len(scores.counts) <= MOST_SCORE_BINS else None
        self._score_range = slice(end, end)
        self._edges = np.zeros(0)
        if self._scores is not None:
            self._edges = np.array(self._scores.edges)
            self._score_range = slice(end, end + len(self._scores.counts))
        self._piece_rows = max(1, rows // (shared.workers * PIECES))
        self._pieces = np.zeros((PIECES, self._score_range.stop))
        self._piece, self._in_piece = 0, 0
        self._next = 0.0
        self._held: list[tuple[Batch, Scores]] = []
        # All bundles use the same region in turn; its first number says whose the others are.
        self._region = shared.region("drift", 1 + MOST_BINS + MOST_SCORE_BINS)
        if self._region.own[0] != self._number:
            self._region.array[:] = 0
            self._region.own[0] = self._number

    @property
    def watches(self) -> bool:
        """True if the bundle says what it was trained on."""
        return bool(self._watched) or self._scores is not None

    def observe(self, runs: Sequence[tuple[Batch, Scores]]) -> None:
        """Count a sample of what was scored; if one was counted only just now, of the last of it
        and of what comes until the next time.

        Runs with rows that somebody tries on a page are left out.
        """
        if not self.watches:
            return
        self._held += [run for run in runs if not run[0].of_page]
        now = monotonic()
        if now < self._next:
            self._hold_fewer()
            return
        if not self._held:
            return
        runs, self._held = self._held, []
        self._next = now + SAMPLE_SECONDS
        if self._in_piece >= self._piece_rows:
            self._piece = (self._piece + 1) % PIECES
            self._pieces[self._piece] = 0
            self._in_piece = 0
        piece = self._pieces[self._piece]
        contexts = _sample([batch.context for batch, _ in runs])
        candidates = _sample([batch.candidate for batch, _ in runs])
        for each in self._watched:
            piece[each.range] += each.bins.count(contexts if each.of_context else candidates)
        if self._scores is not None:
            scores = _sample([scores.score for _, scores in runs])
            bins = np.searchsorted(self._edges, scores[np.isfinite(scores)], side="right")
            piece[self._score_range] += np.bincount(bins, minlength=len(self._scores.counts))
        self._in_piece += len(candidates)
        if self._region.own[0] == self._number:
            self._region.array[1 : 1 + self._score_range.stop] = self._pieces.sum(0)

    @property
    def waiting(self) -> bool:
        """True if runs wait to be counted at the next time."""
        return bool(self._held)

    def _hold_fewer(self) -> None:
        """Let go of all but the last runs."""
        rows = 0
        for place in reversed(range(len(self._held))):
            rows += len(self._held[place][0].candidate)
            if rows >= SAMPLE_ROWS:
                del self._held[:place]
                return

    def _window(self) -> Counts:
        return np.array(self._region.total_of(self._number)[1 : 1 + self._score_range.stop])

    def report(self) -> dict[str, Any]:
        """The state of every slot and of the score, with both histograms as shares."""
        window = self._window()
        score = None
        if self._scores is not None:
            counts = np.array(self._scores.counts, np.float64)
            edges = [None, *self._scores.edges, None]
            names = [list(each) for each in pairwise(edges)]
            score = _shown(window[self._score_range], counts, names)
        return {
            "version": self._version,
            "slots": {
                each.bins.slot.name: _shown(window[each.range], each.bins.trained, each.bins.names)
                for each in self._watched
            },
            "score": score,
            "unwatched": self.unwatched,
        }

    def families(self) -> Iterable[Metric]:
        """The state as Prometheus shows it."""
        psi = GaugeMetricFamily(
            "ctr_drift_psi", "Population stability index of a slot's last values", labels=["slot"]
        )
        most = GaugeMetricFamily(
            "ctr_drift_psi_threshold", "What chance, or a small change, explains", labels=["slot"]
        )
        window = self._window()
        for each in self._watched:
            found = difference(window[each.range], each.bins.trained)
            if found is not None:
                psi.add_metric([each.bins.slot.name], found.psi)
                most.add_metric([each.bins.slot.name], found.threshold)
        yield psi
        yield most
        score = GaugeMetricFamily(
            "ctr_score_drift_psi",
            "Population stability index of the last scores, beside the validation part's",
        )
        threshold = GaugeMetricFamily(
            "ctr_score_drift_psi_threshold", "What chance, or a small change, explains of it"
        )
        counts = np.array(self._scores.counts if self._scores else (), np.float64)
        found = difference(window[self._score_range], counts)
        if found is not None:
            score.add_metric([], found.psi)
            threshold.add_metric([], found.threshold)
        yield score
        yield threshold


def _columns(
    single: Sequence[Slot], lists: Sequence[Slot], side: SideEncoder
) -> Iterator[tuple[Slot, slice]]:
    """Each slot of a side with its columns of a row."""
    for number, slot in enumerate(single):
        yield slot, slice(number, number + 1)
    for slot, (start, stop) in zip(lists, side.shape.lists, strict=True):
        yield slot, slice(start, stop)


def _sample(arrays: Sequence[Any]) -> Any:
    """Return at most ``SAMPLE_ROWS`` rows of arrays, evenly spread over all of them."""
    rows = np.concatenate(arrays)
    step = -(-len(rows) // SAMPLE_ROWS)
    return rows[:: max(1, step)]


def _shown(window: Counts, trained: Counts, names: Sequence[Any]) -> dict[str, Any]:
    found = difference(window, trained)
    return {
        "psi": found and found.psi,
        "js_distance": found and found.js_distance,
        "threshold": found and found.threshold,
        "drifted": bool(found and found.drifted),
        "count": int(window.sum()),
        "bins": list(names),
        "window": _shares(window),
        "trained": _shares(trained),
    }


def _shares(counts: Counts) -> list[float]:
    total = max(1.0, float(counts.sum()))
    return [round(count / total, 6) for count in counts.tolist()]
