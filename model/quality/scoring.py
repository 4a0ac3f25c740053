"""A bundle's scores for data in files, through the engine that serves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.features.graph_inputs import Batch, Scores
from app.scoring.engine import Engine
from model.data.dataset import Dataset

ROWS_PER_RUN = 4096


def batch_of(data: Dataset) -> Batch:
    """Every row as its own context."""
    return Batch(
        data.context_rows,
        data.candidate_rows,
        np.arange(len(data), dtype=np.int32),
    )


def score_dataset(engine: Engine, data: Dataset) -> Scores:
    """Score every row; each row is its own context."""
    logit: NDArray[np.float32] = np.empty(len(data), np.float32)
    score: NDArray[np.float32] = np.empty(len(data), np.float32)
    for start in range(0, len(data), ROWS_PER_RUN):
        rows = slice(start, start + ROWS_PER_RUN)
        logit[rows], score[rows] = engine.score(batch_of(data.take(rows)))
    return Scores(logit, score)
