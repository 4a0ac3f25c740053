"""The outcome of an engine run → the answers of its callers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.errors import EngineFailed
from app.features.graph_inputs import Scores
from app.scoring.job import Piece


def deliver(pieces: Sequence[Piece], scores: Scores) -> int:
    """Give each job of a run its scores, or an error if one of them is not finite; return the rows.

    One caller's rows never fail another one's.
    """
    logit, score = scores
    finite = bool(np.isfinite(logit).all())
    logits, values = logit.tolist(), score.tolist()
    row = 0
    for job, start, stop in pieces:
        if finite and job.rows == 1:
            job.deliver_alone(logits[row], values[row])
            row += 1
            continue
        end = row + stop - start
        part = logit[row:end]
        if finite or np.isfinite(part).all():
            job.deliver(start, Scores(part, score[row:end]))
        else:
            job.fail(EngineFailed("the engine returned a score that is not a number"))
        row = end
    return row


def fail(pieces: Sequence[Piece], error: BaseException) -> None:
    """Tell each job of a run why it has no scores; an unexpected error is named by its type."""
    if not isinstance(error, EngineFailed):
        error = EngineFailed(f"the engine failed: {type(error).__name__}")
    for job, _, _ in pieces:
        job.fail(error)
