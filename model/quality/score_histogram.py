"""The histogram of a part's scores, against which serving is compared later."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import ScoreHistogram

BINS = 20


def score_histogram(score: NDArray[np.floating[Any]]) -> ScoreHistogram:
    """Count scores [R] in up to 20 bins of nearly equal count; equal scores share a bin."""
    ascending = np.sort(score)
    places = len(ascending) * np.arange(1, BINS) // BINS
    edges = np.unique(ascending[places]) if len(ascending) else ascending
    bins = np.searchsorted(edges, score, side="right")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    return ScoreHistogram(tuple(edges.tolist()), tuple(counts.tolist()))
