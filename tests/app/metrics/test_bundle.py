"""Scores are counted for the bundle that gave them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from app.bundle.bundle import Bundle
from app.metrics.bundle import SCORE_BUCKETS, ScoreCounts
from app.workers.shared_numbers import SharedNumbers


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def samples(counts: ScoreCounts) -> dict[str, float]:
    """Count, sum, and count up to a half."""
    found = {}
    for sample in counts.family().samples:
        if sample.labels.get("le", "0.5") == "0.5":
            found[sample.name.removeprefix("ctr_score_")] = sample.value
    return found


def test_scores_fall_into_their_buckets(bundle: Bundle) -> None:
    """A score counts up to the bound that it does not pass; NaN and infinity never do."""
    counts = ScoreCounts(SharedNumbers(), bundle)
    counts.observe(np.array([0.5, 0.25, 0.75, np.nan, np.inf], np.float32))
    counts.observe(np.array([], np.float32))
    counts.observe(np.array([SCORE_BUCKETS[0], 1.0], np.float64).astype(np.float32))
    assert samples(counts) == {
        "count": 5, "sum": pytest.approx(2.5 + SCORE_BUCKETS[0]), "bucket": 3,
    }  # fmt: skip
    assert {sample.labels["version"] for sample in counts.family().samples} == {bundle.version}


def test_another_bundle_begins_from_nothing(bundle: Bundle) -> None:
    """It has none of the scores of the bundle before it, nor of workers that still serve that."""
    shared = SharedNumbers(2)
    other = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, id="f" * 64))
    half = np.array([0.5], np.float32)
    old = ScoreCounts(shared, bundle)
    old.observe(half)
    shared.begin_worker(1)
    behind = ScoreCounts(shared, bundle)
    behind.observe(half)
    assert samples(old)["count"] == samples(behind)["count"] == 2
    shared.begin_worker(0)
    new = ScoreCounts(shared, other)
    assert samples(new)["count"] == 0
    new.observe(half)
    old.observe(half)
    behind.observe(half)
    assert samples(new)["count"] == 1
    assert samples(behind)["count"] == 2
    assert samples(ScoreCounts(shared, other))["count"] == 1, "a worker's successor counts on"
