"""The parity check: an exported graph, run by the engine that serves, against its network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.features.arrays import Indices
from app.features.graph_inputs import Batch
from app.scoring.engine import Engine
from app.scoring.split_engine import ThroughParts
from model.data.dataset import Dataset
from model.export.graph_builder import ExportError
from model.networks.network import Network
from model.quality.calibration import Calibration, calibrated
from model.quality.figures import sigmoid

CANDIDATE_COUNTS = (0, 1, 2, 3, 7, 64, 1000)
CONTEXT_COUNTS = (1, 2, 7)
SCORE_TOLERANCE = 1e-5
"""Largest relative difference of a score from the sigmoid of its (calibrated) logit."""
SPLIT_ROWS = 1_000
"""Rows over which split graphs are compared with the whole one."""
SMALLEST = 1e-30
"""Absolute difference that is allowed besides: float32 holds nothing useful below."""


def network_logits(network: Network, data: Dataset, row_context: Indices) -> NDArray[np.float32]:
    """Return the network's own logits [N]: contexts of the first rows, a candidate of each row."""
    contexts = int(row_context.max(initial=0)) + 1
    every = data.inputs()
    value = every.context_value
    with torch.inference_mode():
        logit: Tensor = network(
            every._replace(
                context=every.context[:contexts],
                row_context=torch.from_numpy(row_context),
                context_lists=[column[:contexts] for column in every.context_lists],
                context_value=None if value is None else value[:contexts],
            )
        )
    return np.asarray(logit.numpy(), np.float32)


def check_parity(
    network: Network,
    engine: Engine | ThroughParts,
    data: Dataset,
    calibration: Calibration | None = None,
) -> tuple[float, int]:
    """Compare network and engine over real rows, at every count of contexts and candidates.

    Return the largest difference of a logit and the number of rows compared, at least 1,000 (rows
    repeat where the data have fewer).

    Raises:
        ExportError: a logit differs by more than the engine's tolerance, or a score is not the
            sigmoid of its calibrated logit.
    """
    network.eval()
    worst, compared = 0.0, 0
    start = 0
    for rows in CANDIDATE_COUNTS:
        for contexts in sorted({*CONTEXT_COUNTS, max(rows, 1)}):
            count = max(rows, contexts)
            taken = np.arange(start, start + count) % len(data)
            start += count
            part = data.take(taken)
            row_context = (np.arange(rows) % contexts).astype(np.int32)
            candidates = part.take(slice(0, rows))
            expected = network_logits(
                network,
                replace(
                    candidates,
                    context=part.context,
                    context_lists=part.context_lists,
                    context_value=part.context_value,
                ),
                row_context,
            )
            found = engine.score(
                Batch(part.context_rows[:contexts], candidates.candidate_rows, row_context)
            )
            if len(found.logit) != rows:
                raise ExportError(f"{rows} rows gave {len(found.logit)} logits")
            # Compared before it enters max(), which would drop a NaN.
            difference = float(np.abs(found.logit - expected).max(initial=0.0))
            worst = max(worst, difference)
            compared += rows
            if not difference <= engine.tolerance:
                raise ExportError(
                    f"network and graph disagree by {difference:.2g} in a logit for {contexts}"
                    f" contexts and {rows} candidates; {engine.tolerance:g} is allowed"
                )
            score = sigmoid(calibrated(calibration, found.logit))
            if not (np.abs(found.score - score) <= SCORE_TOLERANCE * score + SMALLEST).all():
                raise ExportError("a score of the graph is not what its logit says")
    return worst, compared


def check_split(engine: Engine, through_parts: ThroughParts, data: Dataset) -> float:
    """Compare the split graphs with the whole one over the first rows; return how far they differ.

    Raises:
        ExportError: a logit differs by more than the engine's tolerance.
    """
    rows = min(len(data), SPLIT_ROWS)
    part = data.take(slice(0, rows))
    worst = 0.0
    for contexts in sorted({1, rows}):
        owners = (np.arange(rows) % contexts).astype(np.int32)
        batch = Batch(part.context_rows[:contexts], part.candidate_rows, owners)
        expected, found = engine.score(batch), through_parts.score(batch)
        worst = max(worst, float(np.abs(found.logit - expected.logit).max(initial=0.0)))
        if not worst <= engine.tolerance:
            raise ExportError(
                f"the split {engine.precision} graphs disagree with the whole one by {worst:.2g} in"
                f" a logit; {engine.tolerance:g} is allowed"
            )
    return worst
