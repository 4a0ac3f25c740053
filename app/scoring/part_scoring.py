"""Scores rows through item parts where they are held, and the others from their indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.features.arrays import Floats
from app.features.graph_inputs import Batch, Scores
from app.scoring.job import Scoring
from app.scoring.split_engine import SplitEngine


class PartScoring:
    """An engine beside its split graphs: a batch of both kinds of rows takes a run of each."""

    def __init__(self, engine: Scoring, split: SplitEngine, arrays: Sequence[Floats]) -> None:
        """``arrays`` [slots, width] hold the item parts."""
        self._engine = engine
        self._split = split
        self._arrays = arrays[: split.part_arrays]

    def score(self, batch: Batch) -> Scores:
        """Score every row.

        Raises:
            EngineFailed: a run failed, or did not give one score for each row.
        """
        if batch.slots is None:
            return self._engine.score(batch)
        held = batch.slots >= 0
        if held.all():
            return self._through_parts(batch)
        if not held.any():
            return self._engine.score(batch)
        found = Scores(*(np.empty(len(held), np.float32) for _ in Scores._fields))
        for rows, score in ((held, self._through_parts), (~held, self._engine.score)):
            for whole, part in zip(found, score(_rows(batch, rows)), strict=True):
                whole[rows] = part
        return found

    def _through_parts(self, batch: Batch) -> Scores:
        slots = batch.slots
        assert slots is not None
        return self._split.score(batch, [each.take(slots, 0) for each in self._arrays])


def _rows(batch: Batch, chosen: NDArray[np.bool_]) -> Batch:
    """Return some rows of a batch."""
    assert batch.slots is not None
    return Batch(
        batch.context, batch.candidate[chosen], batch.row_context[chosen], batch.slots[chosen]
    )
