"""Golden requests: a bundle that scores otherwise than for the trainer is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from app.bundle.bundle import Bundle
from app.errors import BundleError
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch, Scores
from app.serving.golden import verify_examples

TOLERANCE = 1e-4


class Replay:
    """An engine that gives the trainer's logits, in the examples' order, plus a difference."""

    def __init__(self, bundle: Bundle, difference: float) -> None:
        self.logits = iter([example.logits for example in bundle.examples])
        self.difference = difference

    def score(self, batch: Batch) -> Scores:
        logit = np.array(next(self.logits), np.float32) + np.float32(self.difference)
        return Scores(logit, (1 / (1 + np.exp(-logit))).astype(np.float32))


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def verify(bundle: Bundle, difference: float) -> float:
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    return verify_examples(bundle, encoder, Replay(bundle, difference), TOLERANCE)


def test_the_trainers_logits_are_verified(bundle: Bundle) -> None:
    """It returns the largest difference of a logit."""
    assert verify(bundle, 0.0) == 0.0
    assert verify(bundle, TOLERANCE / 2) == pytest.approx(TOLERANCE / 2, rel=0.05)


@pytest.mark.parametrize("difference", [2 * TOLERANCE, -2 * TOLERANCE, np.inf, np.nan])
def test_a_logit_that_is_too_far_away_or_not_finite_is_refused(
    bundle: Bundle, difference: float
) -> None:
    """NaN is no small difference."""
    with pytest.raises(BundleError, match="golden example 1 scores"):
        verify(bundle, cast(float, difference))


def test_a_bundle_without_examples_is_refused(bundle: Bundle) -> None:
    """Nothing verified is not verified."""
    with pytest.raises(BundleError, match="no golden examples"):
        verify(replace(bundle, examples=()), 0.0)
