"""Calibration on the validation part: a rising, piecewise linear function of the logit.

``platt`` fits a line (Platt 1999, "Probabilistic Outputs for Support Vector Machines"),
``isotonic`` a rising curve (Zadrozny and Elkan 2002, doi:10.1145/775047.775151): click rates of
bins of equal count, made to rise by pooling neighbours, joined by lines in logits. Both rise
everywhere, so the order of scores is that of the logits.

Both are fitted to standardised logits, (logit - mean) / standard deviation, so logits squeezed to a
tenth or stretched tenfold give the same scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from app.errors import CtrError
from model.data.dataset import Dataset
from model.quality.figures import sigmoid, weights
from model.quality.intervals import Floats

BINS = 64
BIN_ROWS = 50
"""Fewest rows of a bin, so that its click rate is known well enough."""
STEEPEST = 8.0
"""Largest slope for a standard deviation of the logits. Ordinary logits need 1 to 2; a steeper rise
is chance, such as that between two bins whose mean logits nearly agree."""
LEAST_SPREAD = 1e-3
"""Least standard deviation of logits that are calibrated: below, differences are rounding errors,
which serving allows up to 0.0001."""
_NEWTON_STEPS = 50


class CalibrationError(CtrError):
    """The validation part gives no calibration: one class, logits all alike, or clicks that do not
    become more frequent with them.
    """


@dataclass(frozen=True, slots=True)
class Calibration:
    """The logit of the calibrated score: ``levels`` [K] at the logits ``knots`` [K], ascending.

    ``slopes`` [K + 1] are those before, between and after the knots.
    """

    method: str
    knots: tuple[float, ...]
    levels: tuple[float, ...]
    slopes: tuple[float, ...]

    @classmethod
    def fit(cls, method: str, data: Dataset, logit: NDArray[np.floating[Any]]) -> Self:
        """Fit ``platt`` or ``isotonic`` to rows and their logits [R].

        Fewer than two bins of rows know the mean rate alone: ``isotonic`` then moves all logits.

        Raises:
            CalibrationError: the rows are of one class, their logits are all alike, or clicks do
                not become more frequent with the logit.
        """
        if data.label.min() == data.label.max():
            raise CalibrationError("the validation labels are all of one class")
        value, weight = logit.astype(np.float64), weights(data.label, data.kept, data.weight)
        mean = np.average(value, weights=weight)
        spread = float(np.sqrt(np.average((value - mean) ** 2, weights=weight)))
        if not spread >= LEAST_SPREAD:
            raise CalibrationError(
                "the logits of the validation rows are all alike: their standard deviation is"
                f" {spread:.2g}, and must be {LEAST_SPREAD:g} or more"
            )
        if method == "isotonic" and len(value) < 2 * BIN_ROWS:
            rate = np.average(data.label, weights=weight)
            return cls(method, *_as_float32((mean,), (np.log(rate / (1 - rate)),), (1.0, 1.0)))
        fit = _line if method == "platt" else _curve
        knots, levels, slopes = fit((value - mean) / spread, data.label, weight)
        parts = mean + spread * np.array(knots), levels, np.array(slopes) / spread
        return cls(method, *_as_float32(*parts))

    @classmethod
    def of(cls, described: Mapping[str, Any] | None) -> Self | None:
        """Return the calibration that a manifest describes, if any."""
        if described is None:
            return None
        parts = (tuple(described[name]) for name in ("knots", "levels", "slopes"))
        return cls(described["method"], *parts)

    def apply(self, logit: NDArray[np.floating[Any]]) -> Floats:
        """Return the logits [R] of the calibrated scores."""
        value = logit.astype(np.float64)
        piece = np.searchsorted(self.knots, value, side="right")
        start = np.maximum(piece - 1, 0)
        knot, level = np.array(self.knots)[start], np.array(self.levels)[start]
        end = np.array([*self.levels, np.inf])[piece]
        found: Floats = np.minimum(level + (value - knot) * np.array(self.slopes)[piece], end)
        return found

    def described(self) -> dict[str, Any]:
        """Return its description for the manifest."""
        return asdict(self)


def calibrated(
    calibration: Calibration | None, logit: NDArray[np.floating[Any]]
) -> NDArray[np.floating[Any]]:
    """Return the calibrated logits [R]; without a calibration the logits themselves."""
    return logit if calibration is None else calibration.apply(logit)


class CalibratedLogit(nn.Module):
    """The same function in the graph, by operations that round the same at every place of a batch.

    A row's piece is found by counting the knots below it; no piece ends above the next one's
    start, so rounding does not change the order of two rows.
    """

    knots: Tensor
    starts: Tensor
    levels: Tensor
    slopes: Tensor
    ends: Tensor

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        knots, levels = calibration.knots, calibration.levels
        largest = float(np.finfo(np.float32).max)
        for name, numbers in (
            ("knots", knots),
            ("starts", (knots[0], *knots)),
            ("levels", (levels[0], *levels)),
            ("slopes", calibration.slopes),
            ("ends", (*levels, largest)),
        ):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32))

    def forward(self, logit_N: Tensor) -> Tensor:
        piece_N = (logit_N.unsqueeze(1) >= self.knots).sum(1)
        start_N, slope_N, level_N, end_N = (
            each.index_select(0, piece_N)
            for each in (self.starts, self.slopes, self.levels, self.ends)
        )
        return torch.minimum(level_N + (logit_N - start_N) * slope_N, end_N)


_Pieces = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]


def _as_float32(*parts: ArrayLike) -> _Pieces:
    """Return knots, levels and slopes as float32 numbers, which the graph holds."""
    knots, levels, slopes = (tuple(np.asarray(part, np.float32).tolist()) for part in parts)
    return knots, levels, slopes


def _line(value: Floats, label: NDArray[np.uint8], weight: Floats) -> _Pieces:
    """Fit a + b z to labels by Newton's method on the log loss; ``value`` is standardised."""
    inputs = np.stack([np.ones_like(value), value], axis=1)
    line = np.array([0.0, 1.0])
    for _ in range(_NEWTON_STEPS):
        rate = sigmoid(inputs @ line)
        gradient = inputs.T @ (weight * (rate - label))
        curvature = (inputs * (weight * rate * (1 - rate))[:, None]).T @ inputs
        try:
            step = np.linalg.solve(curvature, gradient)
        except np.linalg.LinAlgError:
            break
        line = line - np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-10:
            break
    level, slope = line.tolist()
    if not 0 < slope <= STEEPEST:
        raise CalibrationError(
            f"the logit of the click rate changes by {slope:.3g} with each standard deviation of"
            f" the logit, which must be above 0 and at most {STEEPEST:g}"
        )
    return (0.0,), (level,), (slope, slope)


def _curve(value: Floats, label: NDArray[np.uint8], weight: Floats) -> _Pieces:
    """Join the pooled click rates of bins of standardised logits.

    Beyond the outermost bins the curve continues with its mean slope. Pooling is by hand because it
    also bounds the slope, which scikit-learn's isotonic regression does not.
    """
    order = np.argsort(value, kind="stable")
    bins = max(1, min(BINS, len(value) // BIN_ROWS))
    edges = np.linspace(0, len(value), bins + 1).astype(np.int64)[:-1]
    total = np.add.reduceat(weight[order], edges)
    place = np.add.reduceat((weight * value)[order], edges) / total
    clicks = np.add.reduceat((weight * label)[order], edges)
    # One row more in each bin, of the mean rate, so that no rate is 0 or 1.
    mean = float(np.average(label, weights=weight))
    blocks: list[tuple[float, float, float]] = []
    for block in zip((total + 1).tolist(), place.tolist(), (clicks + mean).tolist(), strict=True):
        blocks.append(block)
        while len(blocks) > 1 and not _rises(blocks[-2], blocks[-1]):
            blocks[-2:] = [_pooled(*blocks[-2:])]
    knots = tuple(block[1] for block in blocks)
    levels = tuple(_logit(block) for block in blocks)
    if len(blocks) == 1:
        raise CalibrationError("clicks do not become more frequent with the logit")
    slopes = np.diff(levels) / np.diff(knots)
    outer = (levels[-1] - levels[0]) / (knots[-1] - knots[0])
    return knots, levels, (outer, *slopes.tolist(), outer)


def _rises(low: tuple[float, float, float], high: tuple[float, float, float]) -> bool:
    """Return whether the click rate rises from one block (rows, mean logit, clicks) to the next.

    A rise steeper than ``STEEPEST`` does not count.
    """
    gap, rise = high[1] - low[1], _logit(high) - _logit(low)
    return 0 < rise <= STEEPEST * gap


def _pooled(
    low: tuple[float, float, float], high: tuple[float, float, float]
) -> tuple[float, float, float]:
    rows = low[0] + high[0]
    return rows, (low[0] * low[1] + high[0] * high[1]) / rows, low[2] + high[2]


def _logit(block: tuple[float, float, float]) -> float:
    rows, _, clicks = block
    return float(np.log(clicks) - np.log(rows - clicks))
