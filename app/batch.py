"""What goes into an engine run and what comes out: plain arrays, no runtime."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int32]
Floats = NDArray[np.float32]


class Batch(NamedTuple):
    """U contexts [U, Wc], N candidates [N, Wi], and the context [N] of each candidate.

    A row holds the single-valued slots, then the padded places of the list slots.
    """

    context: Indices
    candidate: Indices
    row_context: Indices


class Scores(NamedTuple):
    """One logit and one score for each candidate row, in their order."""

    logit: Floats
    score: Floats


class Scoring(Protocol):
    """What the batcher needs of an engine: a batch in, scores out; it may block."""

    def score(self, batch: Batch) -> Scores:
        """Score every row.

        Raises:
            EngineFailed: there is not one score for each row.
        """
        ...
