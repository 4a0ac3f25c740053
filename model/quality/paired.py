"""Differences of two models' figures over the same rows, with their standard errors.

Both models score every row, so most of what makes a figure vary from sample to sample is common to
both and cancels in the difference: two AUC that are uncertain by 0.005 each may differ by
0.0001 ± 0.00005.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.quality.intervals import Floats, Labels, Values, shares_below

ONE_SIDED = 1.645
"""Standard errors from an estimate to its bound, which the truth exceeds once in twenty times."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its standard error, both NaN where the rows leave them undefined."""

    value: float
    error: float

    @property
    def least(self) -> float:
        """The value that the truth falls below once in twenty times."""
        return self.value - ONE_SIDED * self.error

    @property
    def most(self) -> float:
        """The value that the truth exceeds once in twenty times."""
        return self.value + ONE_SIDED * self.error


UNDEFINED = Estimate(float("nan"), float("nan"))


def auc_difference(label: Labels, first: Values, second: Values) -> Estimate:
    """Return the AUC of ``first`` minus that of ``second``, scores [R] of the same rows.

    The standard error is that of DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44, 837-845)
    for correlated curves: a row's placement is the share of the rows of the other class on the
    right side of it, and an AUC is the mean placement of either class. Undefined with fewer than
    two rows of a class.
    """
    clicked = label == 1
    clicks = int(clicked.sum())
    if min(clicks, len(label) - clicks) < 2:
        return UNDEFINED
    click = _placements(first, clicked) - _placements(second, clicked)
    other = _placements(-first, ~clicked) - _placements(-second, ~clicked)
    variance = click.var(ddof=1) / len(click) + other.var(ddof=1) / len(other)
    return Estimate(float(click.mean()), float(np.sqrt(variance)))


def _placements(score: Values, chosen: NDArray[np.bool_]) -> Floats:
    """Return for each chosen row the share of the others that it outranks, ties counting half."""
    return shares_below(score[chosen], np.sort(score[~chosen]))


def mean_ratio(first: Values, second: Values) -> Estimate:
    """Return the mean of ``first`` over that of ``second``, values [R] above 0 of the same rows.

    The standard error is that of a ratio estimator: of the residuals first - ratio * second.
    Undefined with fewer than two rows.
    """
    if len(first) < 2:
        return UNDEFINED
    above, below = first.astype(np.float64), second.astype(np.float64)
    ratio = above.mean() / below.mean()
    residual = above - ratio * below
    error = residual.std(ddof=1) / np.sqrt(len(residual)) / below.mean()
    return Estimate(float(ratio), float(error))
