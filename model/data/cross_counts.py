"""Counts of pairs of values in the training part, which decide the pairs with own weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.errors import CtrError
from app.features.layout import PADDING, Layout
from app.features.spec import FeatureSpec
from model.data.dataset import Dataset
from model.networks.crosses import MEAN, RARE, CrossWeights, Operand, Pairs

MAX_NUMBERS = 2**24
"""Pairs of known values that a cross may have: it keeps four bytes for each, in the graph too."""
_PAIRS_AT_ONCE = 2**22


class CrossError(CtrError):
    """A cross that is too large; the message names it."""


def count_crosses(spec: FeatureSpec, layout: Layout, train: Dataset) -> tuple[CrossWeights, ...]:
    """Give a weight to every pair that the rows have as often as the cross' ``min_count`` asks.

    All other pairs share one weight, and the pairs of a slot's mean another. Missing and OOV values
    are values like others here.

    Raises:
        CrossError: the fields of a cross have too many values.
    """
    crosses = []
    for cross in spec.crosses:
        left, right = (Operand.find(layout, name) for name in cross.fields)
        pairs = Pairs(left, right)
        if pairs.numbers > MAX_NUMBERS:
            raise CrossError(
                f"cross {cross.name!r}: {left.numbers:,} x {right.numbers:,} values make more"
                f" pairs than {MAX_NUMBERS:,}; a larger min_count of its fields makes them fewer"
            )
        counts = _count(pairs, train)
        number = np.arange(pairs.numbers)
        left_value, right_value = np.divmod(number, right.numbers)
        padding = (left_value == PADDING) | (right_value == PADDING)
        mean = _is_mean(left, left_value) | _is_mean(right, right_value)
        kept = np.flatnonzero((counts >= cross.min_count) & ~padding & ~mean)
        weight_of = np.full(pairs.numbers, RARE, np.int32)
        weight_of[mean] = MEAN
        weight_of[padding] = PADDING
        weight_of[kept] = np.arange(MEAN + 1, MEAN + 1 + len(kept))
        crosses.append(CrossWeights(pairs, weight_of, MEAN + 1 + len(kept)))
    return tuple(crosses)


def _is_mean(operand: Operand, value: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the numbers that are the operand's mean."""
    last = -1 if operand.slot.mean is None else operand.numbers - 1
    return np.asarray(value == last)


def _count(pairs: Pairs, data: Dataset) -> NDArray[np.int64]:
    """Count every pair's number over all rows, by the code that the graph is made of."""
    counts = np.zeros(pairs.numbers, np.int64)
    per_row = max(1, pairs.find(data.take(slice(0, 1)).inputs()).shape[1])
    step = max(1, _PAIRS_AT_ONCE // per_row)
    for start in range(0, len(data), step):
        found = pairs.find(data.take(slice(start, start + step)).inputs())
        counts += np.bincount(found.flatten().numpy(), minlength=pairs.numbers)
    return counts
