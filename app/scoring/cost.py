"""The predicted time of engine runs, fitted to the runs so far."""

from __future__ import annotations


class CostModel:
    """Predicts the seconds of a run as base + per_row * rows.

    Least squares over the runs so far, where each run forgets a share of the older ones.
    Neither part goes below zero.
    """

    def __init__(self, decay: float = 0.98) -> None:
        self._decay = decay
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self.base, self.per_row = 1e-4, 1e-5
        self.runs = 0

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from one run."""
        self.runs += 1
        keep = self._decay
        self._n = keep * self._n + 1
        self._x = keep * self._x + rows
        self._y = keep * self._y + seconds
        self._xx = keep * self._xx + rows * rows
        self._xy = keep * self._xy + rows * seconds
        spread = self._n * self._xx - self._x * self._x
        # Runs of one size say nothing about the slope.
        if spread > 1e-9 * self._n * self._xx:
            slope = (self._n * self._xy - self._x * self._y) / spread
            self.per_row = max(0.0, slope)
        self.per_row = min(self.per_row, self._y / self._x)
        self.base = max(0.0, (self._y - self.per_row * self._x) / self._n)

    def seconds(self, rows: int, runs: int = 1) -> float:
        """Predict how long ``rows`` rows take in ``runs`` runs."""
        return self.base * runs + self.per_row * rows
