"""Which rows an epoch learns from: every click, and a share of the others.

A network that learns from a share w of the rows without a click sees odds 1 / w too high; log w
added to its logit puts them right (He et al. 2014, doi:10.1145/2648584.2648589). Here it is
added to what the loss sees, so the network itself gives true odds, in training and after it.
What remains between the mean score and the click rate of the training part is taken off the bias
at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.dataset import Dataset
from model.metrics import sigmoid

Rows = NDArray[np.int64]
_FARTHEST, _HALVINGS = 2.0, 30
"""Logits are moved by no more than this, and by bisection."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The rows [R] with and without a click, and how many of the latter an epoch draws."""

    clicks: Rows
    others: Rows
    drawn: int
    kept: float
    """The share of all rows without a click that are among ``others``."""

    @classmethod
    def of(cls, train: Dataset, rate: float) -> Sampling:
        """Draw a share ``rate`` of the rows without a click, at least one if there are any."""
        clicks, others = np.flatnonzero(train.label == 1), np.flatnonzero(train.label == 0)
        drawn = max(min(1, len(others)), round(rate * len(others)))
        return cls(clicks, others, drawn, train.kept)

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return len(self.clicks) + self.drawn

    @property
    def rate(self) -> float:
        """The share of ``others`` that is drawn."""
        return self.drawn / len(self.others) if len(self.others) else 1.0

    @property
    def shift(self) -> float:
        """What to add to the logit of true odds for the odds among the rows of an epoch."""
        return -math.log(self.rate * self.kept)

    @property
    def base_rate(self) -> float:
        """The click rate among all rows, those included that are not there; not quite 0 or 1."""
        rows = len(self.clicks) + len(self.others)
        floor = 0.5 / rows
        rate = len(self.clicks) / (len(self.clicks) + len(self.others) / self.kept)
        return min(max(rate, floor), 1 - floor)

    def draw(self, random: np.random.Generator) -> Rows:
        """Return the rows of an epoch in a random order."""
        if self.drawn == len(self.others):
            return random.permutation(self.rows)
        drawn = random.choice(self.others, self.drawn, replace=False)
        return random.permutation(np.concatenate([self.clicks, drawn]))

    def correction(self, logit: NDArray[np.float32]) -> float:
        """Return what to add to all logits [R] so that their mean score is the base rate.

        What a network does not explain of the rows that it learnt from is noise in its logits,
        and noise that cancels out at the odds of these rows does not at the true odds.
        """
        value = np.concatenate([logit[self.clicks], logit[self.others]]).astype(np.float64)
        stands_for = np.repeat([1.0, 1 / self.kept], [len(self.clicks), len(self.others)])
        low, high = -_FARTHEST, _FARTHEST
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            mean = np.average(sigmoid(value + middle), weights=stands_for)
            low, high = (low, middle) if mean > self.base_rate else (middle, high)
        return (low + high) / 2

    def described(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {"kept": self.kept, "rate": self.rate, "logit_shift": 0.0 - self.shift}
