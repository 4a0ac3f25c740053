"""AUC of one column alone: what its values tell of a click without any other column."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.quality.figures import auc

BUCKETS = 64
PRIOR_ROWS = 10.0
"""Rows of the mean click rate that each value's own rate is mixed with."""


def auc_alone(codes: NDArray[np.int64], label: NDArray[np.uint8]) -> float | None:
    """Return the AUC of the click rate of each row's value; None without rows of both classes.

    ``codes`` [R] are the values' numbers from 0. Each row is scored by the click rate of its value
    among rows of the other half (the even ones by the odd ones), so that a value that comes once
    tells nothing of itself. The figure is the mean of both halves.
    """
    values = int(codes.max(initial=0)) + 1
    even = np.arange(len(codes)) % 2 == 0
    found = []
    for scored, known in ((even, ~even), (~even, even)):
        rows = np.bincount(codes[known], minlength=values)
        clicks = np.bincount(codes[known], weights=label[known], minlength=values)
        mean = label[known].mean() if known.any() else 0.0
        rate = (clicks + PRIOR_ROWS * mean) / (rows + PRIOR_ROWS)
        found.append(auc(label[scored], rate[codes[scored]]))
    known_halves = [each for each in found if each is not None]
    return sum(known_halves) / len(known_halves) if known_halves else None


def in_buckets(numbers: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bucket [R] of each row's number; buckets have equal counts of rows.

    ``numbers`` [V] are those of the distinct values, NaN where there is none.
    """
    row = numbers[codes]
    known = row[~np.isnan(row)]
    if not len(known):
        return np.zeros(len(codes), np.int64)
    edges = np.unique(np.quantile(known, np.arange(1, BUCKETS) / BUCKETS))
    bucket = np.searchsorted(edges, numbers, side="right") + 1
    return np.where(np.isnan(numbers), 0, bucket)[codes].astype(np.int64)
