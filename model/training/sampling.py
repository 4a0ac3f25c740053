"""The rows of an epoch: every click, and a share of the rows without one.

A network that learns from a share w of the rows without a click sees odds 1 / w too high; log w
added to its logit puts them right (He et al. 2014, doi:10.1145/2648584.2648589). Here it is
added to what the loss sees, so the network itself gives true odds, in training and after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import Dataset

Rows = NDArray[np.int64]
BLOCK, WINDOW = 2**12, 2**22
"""Rows that lie together on disk, and rows that are shuffled at once."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Counts of rows with a click and without, and of those without that an epoch draws."""

    label: NDArray[np.uint8]
    clicks: int
    others: int
    drawn: int
    kept: float
    """The share of all rows without a click that are among the ``others``."""
    click_weight: float = 1.0
    """Mean weight of the rows with a click, and that of the others."""
    other_weight: float = 1.0

    @classmethod
    def of(cls, train: Dataset, rate: float) -> Sampling:
        """Draw a share ``rate`` of the rows without a click, at least one if there are any."""
        clicks = int(np.count_nonzero(train.label))
        others = len(train) - clicks
        drawn = max(min(1, others), round(rate * others))
        if train.weight is None:
            return cls(train.label, clicks, others, drawn, train.kept)
        total = float(train.weight.sum(dtype=np.float64))
        of_clicks = float(train.weight[train.label == 1].sum(dtype=np.float64))
        means = of_clicks / max(1, clicks), (total - of_clicks) / max(1, others)
        return cls(train.label, clicks, others, drawn, train.kept, *means)

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return self.clicks + self.drawn

    @property
    def mean_weight(self) -> float:
        """Mean weight of the rows of an epoch."""
        return (self.clicks * self.click_weight + self.drawn * self.other_weight) / self.rows

    @property
    def rate(self) -> float:
        """The share of ``others`` that is drawn."""
        return self.drawn / self.others if self.others else 1.0

    @property
    def shift(self) -> float:
        """The logit of the odds among an epoch's rows minus the logit of the true odds."""
        return -math.log(self.rate * self.kept)

    @property
    def base_rate(self) -> float:
        """The click rate among all rows, those included that are not there; not quite 0 or 1."""
        floor = 0.5 / len(self.label)
        clicks = self.clicks * self.click_weight
        rate = clicks / (clicks + self.others * self.other_weight / self.kept)
        return min(max(rate, floor), 1 - floor)

    def draw(self, random: np.random.Generator) -> Iterator[Rows]:
        """Yield the rows of an epoch in a random order, in pieces.

        Of more rows than ``WINDOW``, blocks drawn at random are shuffled together: so the pages
        of data that are larger than memory are read once an epoch, not once a row.
        """
        if len(self.label) <= WINDOW:
            yield random.permutation(self._drawn(np.arange(len(self.label)), self.drawn, random))
            return
        passed = taken = 0
        blocks = random.permutation(math.ceil(len(self.label) / BLOCK))
        for start in range(0, len(blocks), WINDOW // BLOCK):
            firsts = blocks[start : start + WINDOW // BLOCK, None] * BLOCK
            rows = (firsts + np.arange(BLOCK)).ravel()
            rows = rows[rows < len(self.label)]
            passed += len(rows) - int(np.count_nonzero(self.label[rows]))
            # Rounded so that all windows together draw as many as were promised.
            wanted = round(passed * self.drawn / max(1, self.others)) - taken
            taken += wanted
            yield random.permutation(self._drawn(rows, wanted, random))

    def _drawn(self, rows: Rows, wanted: int, random: np.random.Generator) -> Rows:
        """Return the clicks among some rows, and as many of the others as are wanted."""
        if self.drawn == self.others:
            return rows
        clicked = self.label[rows] == 1
        drawn = random.choice(rows[~clicked], wanted, replace=False)
        return np.concatenate([rows[clicked], drawn])

    def described(self) -> dict[str, Any]:
        """Return its description for the manifest."""
        return {"kept": self.kept, "rate": self.rate, "logit_shift": 0.0 - self.shift}
