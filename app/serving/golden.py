"""Golden requests: a bundle must encode and score them here as the trainer did."""

from __future__ import annotations

import numpy as np

from app.bundle.bundle import Bundle
from app.bundle.manifest import Precision
from app.errors import BundleError
from app.features.arrays import Floats
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch
from app.scoring.job import Scoring


def verify_examples(
    bundle: Bundle,
    encoder: Encoder,
    engine: Scoring,
    tolerance: float,
    precision: Precision = "float32",
) -> float:
    """Check that the golden requests still encode and score as they did for the trainer.

    Returns the largest difference of a logit.

    Raises:
        BundleError: they do not; it says which and by how much.
    """
    if not bundle.examples:
        raise BundleError(f"{bundle.version}: no golden examples")
    worst = 0.0
    for number, example in enumerate(bundle.examples, 1):
        context = np.frombuffer(encoder.context.row(example.context), np.int32)
        candidates = b"".join(map(encoder.candidate.row, example.candidates))
        matrix = np.frombuffer(candidates, np.int32).reshape(-1, encoder.candidate.shape.width)
        if context.tolist() != example.context_row or matrix.tolist() != example.candidate_rows:
            raise BundleError(f"{bundle.version}: golden example {number} encodes to other indices")
        rows = len(matrix)
        scores = engine.score(Batch(context.reshape(1, -1), matrix, np.zeros(rows, np.int32)))
        expected = np.array(example.expected(precision), np.float32)
        if len(expected) != rows:
            raise BundleError(
                f"{bundle.version}: golden example {number} has no {precision} logits"
            )
        difference = np.abs(scores.logit - expected)
        largest = float(difference.max(initial=0.0))
        worst = max(worst, largest)
        # Asked this way round, a difference that is no number is refused too.
        if not largest <= tolerance:
            raise BundleError(
                f"{bundle.version}: golden example {number} scores {largest:.2g} away from the"
                f" trainer's logit; {tolerance:g} is allowed"
            )
        calibrated = example.expected_scores(precision)
        if calibrated is not None and not _alike(
            scores.score, calibrated, bundle.steepest * tolerance
        ):
            raise BundleError(
                f"{bundle.version}: golden example {number} has another calibrated score than the"
                " trainer's"
            )
    return worst


def _alike(score: Floats, expected: list[float], tolerance: float) -> bool:
    """Return whether calibrated scores differ by no more than ``tolerance`` of themselves."""
    away = np.abs(score - np.array(expected, np.float32))
    allowed = tolerance * np.array(expected, np.float32) + np.finfo(np.float32).eps
    return len(score) == len(expected) and bool((away <= allowed).all())
