"""The intercept of a trained network: its mean score becomes the click rate of the training part.

The gradient of the bias is the mean score less the click rate, so while a network trains the two
agree: 0.95 to 1.09 in 24 states of networks trained on made-up logs with 2 % of clicks. Scoring is
another function than training, and the same states scored 0.68 to 1.15 of the click rate:

- Dropout, and batch norm by a batch's own statistics, add noise to the logits. Where clicks are
  rare, the mean of sigmoid(z + noise) is about exp(variance / 2) times sigmoid(z); training lowers
  the logits by that, and scoring has no noise. With a dropout of 0.4, the default for few rows, the
  mean score is too low by 0.14 to 0.24 of the rate, with 0.2 by up to 0.05.
- Batch norm scores with running statistics: averages over earlier weights, and of inputs that
  dropout has widened. They moved the mean by 0.07 up to 0.16 down.
- The best weights come from the middle of the schedule, where steps are large and the mean score
  wanders: by 0.1 in an FM, by 0.04 in an LR, which have neither dropout nor batch norm.

L2 does not take part (the bias has none), nor do OOV draws (0.02 at most). What is left is one
number, and one number puts it right: added to the bias, it changes neither order nor AUC.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.quality.figures import sigmoid
from model.quality.intervals import Floats

_STEPS = 100
_NEAR = 1e-9
"""Relative difference of mean score and rate at which the search ends."""


def bias_to_add(logit: NDArray[np.floating[Any]], weight: Floats, rate: float) -> float:
    """Return what to add to all logits [R] so that their mean score is ``rate``, not 0 or 1.

    Rows count by their ``weight`` [R]. Newton's method on the logit of the mean, within bounds
    that close in: between the shifts that bring the largest logit, and the smallest, to the rate.
    """
    value = logit.astype(np.float64)
    wanted = math.log(rate) - math.log1p(-rate)
    low, high = wanted - float(value.max()), wanted - float(value.min())
    shift = min(max(0.0, low), high)
    for _ in range(_STEPS):
        score = sigmoid(value + shift)
        mean = float(np.average(score, weights=weight))
        if abs(mean - rate) <= _NEAR * rate:
            break
        low, high = (low, shift) if mean > rate else (shift, high)
        slope = float(np.average(score * (1 - score), weights=weight))
        if slope > 0 and 0 < mean < 1:
            found = math.log(mean) - math.log1p(-mean)
            shift += (wanted - found) * mean * (1 - mean) / slope
        if not low < shift < high:
            shift = (low + high) / 2
    return shift
