"""Explanations offline: of one row, and of the fields of whole files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from app.bundle.bundle import Bundle
from app.bundle.manifest import Precision
from app.errors import CtrError, ValueProblem
from app.explain.explainer import Explainer
from app.explain.explanation import Explanation
from app.explain.players import Baseline, Row
from app.features.encoder import Encoder
from app.features.nearest import suggestion
from model.data.encode import encode
from model.progress import progress_bar
from model.quality.offline_scoring import open_engine

MOST_PROBLEMS = 10
"""Wrong values of a row that an error names."""


class RowError(CtrError):
    """A row that cannot be explained; the message names the fields."""


@dataclass(frozen=True, slots=True)
class FieldShare:
    """The part that a field has in the scores of many rows, in logits."""

    field: str
    share: float
    """Mean of the absolute Shapley values."""
    mean: float
    """Mean of the Shapley values."""


@dataclass(frozen=True, slots=True)
class OfflineExplainer:
    """A bundle opened for explanations."""

    bundle: Bundle
    encoder: Encoder
    explainer: Explainer

    @classmethod
    def of(cls, bundle: Bundle, precision: Precision = "float32") -> OfflineExplainer:
        """Open the graphs of a bundle, on one thread.

        Raises:
            BundleError: the bundle has no graph of this precision, or one that cannot be loaded.
        """
        encoder = Encoder(bundle.spec, bundle.vocabulary)
        layout = bundle.vocabulary.layout
        # Slices of rows are too short to be shared by threads.
        engine = open_engine(bundle.graph_in(precision), encoder, layout, precision, 1)
        return cls(bundle, encoder, Explainer.of(bundle, encoder, engine))

    def row(self, values: Mapping[str, Any], baseline: Baseline = "mean") -> Explanation:
        """Explain a row of raw values, as ``/predict`` takes them.

        Raises:
            RowError: a value breaks a rule of its field, or a field is not in the spec.
            NotOffered: the bundle has no such baseline.
        """
        unknown = [name for name in values if name not in self.encoder.fields]
        if unknown:
            near = suggestion(unknown[0], self.encoder.fields)
            raise RowError(f"unknown field {unknown[0]!r}{near}")
        try:
            packed = [side.row(values, None) for side in self._sides]
        except ValueProblem:
            problems = [each for side in self._sides for each in side.problems(values)]
            told = "; ".join(f"{name}: {problem}" for name, problem in problems[:MOST_PROBLEMS])
            raise RowError(told) from None
        return self.explainer.explain(
            Row(*(np.frombuffer(each, np.int32) for each in packed)), baseline
        )

    @property
    def _sides(self) -> tuple[Any, Any]:
        return self.encoder.context, self.encoder.candidate

    def fields(
        self, frames: Iterable[pl.DataFrame], rows: int, baseline: Baseline = "mean", seed: int = 0
    ) -> tuple[Sequence[FieldShare], int]:
        """Return the part of each field in up to ``rows`` rows, the largest first.

        Where the frames have more, those are drawn at random. The second number is how many rows
        were explained.
        """
        chosen = _drawn(frames, rows, seed)
        values: list[Sequence[float]] = []
        if chosen.height:
            data = encode(self.bundle.spec, self.encoder, chosen, label=False)
            pairs = zip(data.context_rows, data.candidate_rows, strict=True)
            with progress_bar("explaining", chosen.height, "rows", True) as progress:
                for context, candidate in pairs:
                    found = self.explainer.explain(Row(context, candidate), baseline)
                    values.append([*found.shapley.values()])
                    progress.update(1)
        fields = self.explainer.words.fields
        every: NDArray[np.float64] = np.array(values).reshape(-1, len(fields))
        shares = [
            FieldShare(field, float(np.abs(column).mean()), float(column.mean()))
            for field, column in zip(fields, every.T, strict=True)
            if len(column)
        ]
        return sorted(shares, key=lambda each: -each.share), len(values)


def _drawn(frames: Iterable[pl.DataFrame], rows: int, seed: int) -> pl.DataFrame:
    """Return so many rows at random, in their order; each piece is held once, and not for long."""
    draw = np.random.default_rng(seed)
    kept: pl.DataFrame | None = None
    keys: NDArray[np.float64] = np.zeros(0)
    for frame in frames:
        # The rows with the smallest of random keys are a sample of all rows, however many come.
        keys = np.concatenate([keys, draw.random(frame.height)])
        every = frame if kept is None else pl.concat([kept, frame], how="vertical_relaxed")
        best = np.sort(np.argsort(keys)[:rows])
        kept, keys = every[best.tolist()], keys[best]
    return pl.DataFrame() if kept is None else kept
