"""The histogram of scores: bins of equal count, whatever the level of the scores."""

from __future__ import annotations

import numpy as np
import pytest

from model.quality.score_histogram import BINS, score_histogram


@pytest.mark.parametrize("level", [1.0, 1e-4])
def test_bins_hold_equal_counts(level: float) -> None:
    """Rare clicks have as many bins as frequent ones."""
    scores = (np.random.default_rng(1).random(1_003) * level).astype(np.float32)
    histogram = score_histogram(scores)
    assert len(histogram.counts) == BINS == len(histogram.edges) + 1
    assert sum(histogram.counts) == len(scores)
    assert max(histogram.counts) - min(histogram.counts) <= 1
    for bin_, count in enumerate(histogram.counts):
        low, high = (-np.inf, *histogram.edges, np.inf)[bin_ : bin_ + 2]
        assert ((low <= scores) & (scores < high)).sum() == count


@pytest.mark.parametrize(
    ("scores", "edges", "counts"),
    [([], (), (0,)), ([0.5] * 9, (0.5,), (0, 9)), ([0.5, 0.25], (0.25, 0.5), (0, 1, 1))],
)
def test_few_or_equal_scores(
    scores: list[float], edges: tuple[float, ...], counts: tuple[int, ...]
) -> None:
    """Equal scores share a bin; no scores are one empty bin."""
    histogram = score_histogram(np.array(scores, np.float32))
    assert (histogram.edges, histogram.counts) == (edges, counts)
