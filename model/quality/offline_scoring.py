"""The engine that serves, run over encoded data: how bundles are checked and measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Precision
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch, Scores
from app.features.layout import Layout
from app.scoring.engine import Engine
from app.workers.cpus import cpu_quota
from model.data.dataset import Dataset

ROWS_PER_RUN = 4096


def open_engine(
    graph: Path,
    encoder: Encoder,
    layout: Layout,
    precision: Precision = "float32",
    threads: int | None = None,
) -> Engine:
    """Load a graph on the CPU; by default with a thread for each CPU of the quota.

    Raises:
        BundleError: the graph cannot be loaded, or has other inputs than the layout.
    """
    shapes = encoder.context.shape, encoder.candidate.shape
    return Engine(graph, layout, *shapes, "cpu", threads or cpu_quota(), precision)


def batch_of(data: Dataset) -> Batch:
    """Return all rows as one batch, each row its own context."""
    return Batch(
        data.context_rows,
        data.candidate_rows,
        np.arange(len(data), dtype=np.int32),
    )


def score_dataset(engine: Engine, data: Dataset, whole_runs: bool = False) -> Scores:
    """Score every row, each its own context.

    With ``whole_runs`` every run of the engine has ``ROWS_PER_RUN`` rows, the last row again where
    there are no more. A product of matrices is cut by its shape, and only so is the order of its
    sums the same for every row, whatever rows and however many are scored.

    Raises:
        EngineFailed: a run fails.
    """
    logit: NDArray[np.float32] = np.empty(len(data), np.float32)
    score: NDArray[np.float32] = np.empty(len(data), np.float32)
    for start in range(0, len(data), ROWS_PER_RUN):
        rows = slice(start, min(start + ROWS_PER_RUN, len(data)))
        taken: slice | NDArray[np.int64] = rows
        if whole_runs:
            taken = np.minimum(np.arange(start, start + ROWS_PER_RUN), len(data) - 1)
        found = engine.score(batch_of(data.take(taken)))
        count = rows.stop - rows.start
        logit[rows], score[rows] = found.logit[:count], found.score[:count]
    return Scores(logit, score)
