"""Quality of scores: ranking, likelihood and calibration, over a whole part of the data.

Where the data hold only a share ``kept`` of the rows without a click, each of these counts
1 / kept times, so that the figures are those of all rows. AUC needs no correction for that. Rows
with a ``weight`` of their own count so many times, in every figure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from model.quality.intervals import Floats, Labels, auc_interval, mean_loss_interval

FEW = 100
"""Rows of a class below which an AUC is rough: its standard error is about 0.03 from so many."""


class Counts(NamedTuple):
    """The rows of a part, and those of them with a click."""

    rows: int
    clicks: int

    @classmethod
    def of(cls, label: Labels) -> Self:
        """Count the rows of labels."""
        return cls(len(label), int(label.sum()))

    @property
    def rough(self) -> bool:
        """Tell whether a class has fewer than ``FEW`` rows: too few to compare AUCs by."""
        return min(self.clicks, self.rows - self.clicks) < FEW

    def __str__(self) -> str:
        return f"{self.clicks:,} clicks in {self.rows:,} rows"


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of R scores. ``None`` where the labels leave a figure undefined."""

    rows: int
    positives: int
    auc: float | None
    auc_lower: float | None
    """The bounds of a 95 % interval, as are those of the log loss."""
    auc_upper: float | None
    log_loss: float
    """Mean over rows, natural logarithm."""
    log_loss_lower: float
    log_loss_upper: float
    calibration: float | None
    """Predicted clicks over observed clicks; 1 is right, above 1 predicts too many."""
    calibration_error: float
    """Expected calibration error over bins of equal count, in probability."""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name, as JSON can hold them."""
        return asdict(self)

    @property
    def counts(self) -> Counts:
        """The rows and clicks that the figures are from."""
        return Counts(self.rows, self.positives)

    def line(self) -> str:
        """Return the figures as one line for people, with 95 % intervals.

        As ± the wider side, or as bounds where a class has few rows: there the sides differ.
        """
        auc = "none (one class)"
        if self.auc is not None:
            auc = self._with_interval(self.auc, self.auc_lower, self.auc_upper)
        loss = self._with_interval(self.log_loss, self.log_loss_lower, self.log_loss_upper)
        calibration = "none" if self.calibration is None else f"{self.calibration:.3f}"
        return (
            f"AUC {auc}, log loss {loss}, predicted/observed {calibration},"
            f" {self.positives:,} clicks"
        )

    def _with_interval(self, value: float, lower: float | None, upper: float | None) -> str:
        assert lower is not None
        assert upper is not None
        if self.counts.rough:
            return f"{value:.4f} ({lower:.4f} to {upper:.4f})"
        return f"{value:.4f} ± {max(upper - value, value - lower):.4f}"


def few_clicks(parts: Iterable[tuple[str, Counts]]) -> str | None:
    """Return a warning of the parts whose figures are rough; None if there are none."""
    rough = [f"{part} ({counts})" for part, counts in parts if counts.rough]
    if not rough:
        return None
    return (
        f"with fewer than {FEW} clicks, or {FEW} other rows, AUC and log loss say little:"
        f" {', '.join(rough)}; see the 95 % intervals"
    )


@dataclass(frozen=True, slots=True)
class Reliability:
    """Mean score and observed click rate, [B] each, of rows binned by score, B of equal count."""

    predicted: Floats
    observed: Floats
    count: Floats
    """Rows that each bin represents."""

    def to_dict(self) -> dict[str, list[float]]:
        """Return the arrays by name, as JSON can hold them."""
        return {
            "predicted": self.predicted.tolist(),
            "observed": self.observed.tolist(),
            "count": self.count.tolist(),
        }


def evaluate_scores(
    label: Labels,
    logit: NDArray[np.floating[Any]],
    kept: float = 1.0,
    row_weight: NDArray[np.floating[Any]] | None = None,
) -> Quality:
    """Return every figure for labels [R] in {0, 1} and logits [R], R being 1 or more."""
    if len(label) != len(logit) or len(label) == 0:
        raise ValueError(
            f"need as many labels as logits and one at least, got {len(label)} and {len(logit)}"
        )
    positives = int(label.sum())
    weight = weights(label, kept, row_weight)
    clicks = float(weight[label == 1].sum())
    promised = float((sigmoid(logit) * weight).sum())
    bins = reliability(label, logit, kept=kept, row_weight=row_weight)
    gap = np.abs(bins.predicted - bins.observed)
    bounds = auc_interval(label, logit, row_weight)
    loss_bounds = mean_loss_interval(losses(label, logit), weight, promised / float(weight.sum()))
    return Quality(
        rows=len(label),
        positives=positives,
        auc=auc(label, logit, row_weight),
        auc_lower=bounds and bounds.lower,
        auc_upper=bounds and bounds.upper,
        log_loss=log_loss(label, logit, kept, row_weight),
        log_loss_lower=loss_bounds.lower,
        log_loss_upper=loss_bounds.upper,
        calibration=promised / clicks if positives else None,
        calibration_error=float((gap * bins.count).sum() / bins.count.sum()),
    )


def weights(
    label: Labels, kept: float, row_weight: NDArray[np.floating[Any]] | None = None
) -> Floats:
    """Return the weight of each row [R]: the number of rows that it represents."""
    found = np.where(label == 1, 1.0, 1 / kept)
    return found if row_weight is None else found * row_weight


def auc(
    label: Labels,
    score: NDArray[np.floating[Any]],
    row_weight: NDArray[np.floating[Any]] | None = None,
) -> float | None:
    """Return P(a positive outranks a negative), ties counting half; None for one class.

    With weights each pair counts as the product of its rows' weights.

    The Mann-Whitney statistic from mean ranks (Hanley and McNeil 1982); exact. scikit-learn gives
    the same number from a curve of all thresholds in twice the time (a million rows: 0.29 s
    instead of 0.16 s), so it is a reference for tests only.
    """
    positives = int(label.sum())
    negatives = len(label) - positives
    if positives == 0 or negatives == 0:
        return None
    if row_weight is not None:
        return _weighted_auc(label, score, row_weight.astype(np.float64))
    order = np.argsort(score, kind="stable")
    ranked = score[order]
    first = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
    count = np.diff(np.append(first, len(ranked)))
    rank = np.repeat(first + (count + 1) / 2, count)
    rank_sum = float(rank[label[order] == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def _weighted_auc(label: Labels, score: NDArray[np.floating[Any]], weight: Floats) -> float:
    """Add up the negatives' weight below each distinct score, and half of that beside it."""
    _, place = np.unique(score, return_inverse=True)
    clicks = np.bincount(place, weight * (label == 1))
    others = np.bincount(place, weight * (label == 0))
    below = np.cumsum(others) - others
    return float((clicks * (below + others / 2)).sum() / (clicks.sum() * others.sum()))


def log_loss(
    label: Labels,
    logit: NDArray[np.floating[Any]],
    kept: float = 1.0,
    row_weight: NDArray[np.floating[Any]] | None = None,
) -> float:
    """Return the mean negative log-likelihood in nats, from logits and in float64."""
    loss = losses(label, logit)
    if kept == 1 and row_weight is None:
        return float(loss.mean())
    return float(np.average(loss, weights=weights(label, kept, row_weight)))


def losses(label: Labels, logit: NDArray[np.floating[Any]]) -> Floats:
    """Return the negative log-likelihood [R] of each row.

    log(1 + e^z) - y z never overflows, and no probability is clipped.
    """
    value = logit.astype(np.float64)
    found: Floats = np.logaddexp(0.0, value) - label * value
    return found


def reliability(
    label: Labels,
    logit: NDArray[np.floating[Any]],
    bins: int = 15,
    kept: float = 1.0,
    row_weight: NDArray[np.floating[Any]] | None = None,
) -> Reliability:
    """Sort the rows by score and average ``bins`` parts of equal count (fewer for fewer rows)."""
    bins = min(bins, len(label))
    order = np.argsort(logit, kind="stable")
    edges = np.linspace(0, len(label), bins + 1).astype(np.int64)
    weight = weights(label, kept, row_weight)[order]
    count = np.add.reduceat(weight, edges[:-1])
    predicted = np.add.reduceat(sigmoid(logit)[order] * weight, edges[:-1]) / count
    observed = np.add.reduceat(label[order] * weight, edges[:-1]) / count
    return Reliability(predicted, observed, count)


def sigmoid(logit: NDArray[np.floating[Any]]) -> Floats:
    """Return 1 / (1 + e^-z) in float64, without overflow."""
    return np.exp(-np.logaddexp(0.0, -logit.astype(np.float64)))
