"""Figures of weighted rows: a row of weight 3 counts as three rows like it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.quality.calibration import Calibration
from model.quality.figures import auc, evaluate_scores, log_loss, reliability, sigmoid
from model.quality.intervals import auc_interval
from tests.support import clicks

ROWS = 2_000


def sample(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits with ties, and whole weights from 1 to 5."""
    random = np.random.default_rng(seed)
    logit = random.normal(-1, 1, ROWS).round(1)
    label = (random.random(ROWS) < sigmoid(logit)).astype(np.uint8)
    return label, logit, random.integers(1, 6, ROWS).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kept", [1.0, 0.25])
def test_a_weight_is_a_number_of_rows(seed: int, kept: float) -> None:
    label, logit, weight = sample(seed)
    times = weight.astype(int)
    found = evaluate_scores(label, logit, kept, weight)
    repeated = evaluate_scores(np.repeat(label, times), np.repeat(logit, times), kept)
    assert found.auc == pytest.approx(repeated.auc, abs=1e-12)
    assert found.log_loss == pytest.approx(repeated.log_loss, abs=1e-12)
    assert found.calibration == pytest.approx(repeated.calibration, abs=1e-12)
    assert (found.rows, found.positives) == (ROWS, int(label.sum())), "counts are of rows"
    total = reliability(label, logit, kept=kept, row_weight=weight).count.sum()
    assert total == pytest.approx(np.where(label, weight, weight / kept).sum())


@pytest.mark.parametrize("seed", range(3))
def test_figures_agree_with_scikit_learn(seed: int) -> None:
    # A second of import, wanted here only.
    from sklearn.metrics import log_loss as reference_log_loss
    from sklearn.metrics import roc_auc_score

    label, logit, weight = sample(seed)
    weight = weight * np.random.default_rng(seed).random(ROWS).astype(np.float32)
    expected = roc_auc_score(label, logit, sample_weight=weight)
    assert auc(label, logit, weight) == pytest.approx(expected, abs=1e-9)
    expected = reference_log_loss(label, sigmoid(logit), sample_weight=weight)
    assert log_loss(label, logit, row_weight=weight) == pytest.approx(expected, abs=1e-9)


def test_equal_weights_change_nothing() -> None:
    label, logit, _ = sample(7)
    plain, weighed = (
        evaluate_scores(label, logit, 1.0, weight)
        for weight in (None, np.full(ROWS, 0.3, np.float32))
    )
    for name, value in plain.to_dict().items():
        tolerance = 2e-3 if name.startswith("auc_") else 1e-9
        assert weighed.to_dict()[name] == pytest.approx(value, abs=tolerance), name


def test_the_interval_holds_the_truth() -> None:
    """Of 300 samples of rows with very different weights, about 95 % of the intervals do."""
    random = np.random.default_rng(8)
    large = random.normal(0, 1, 200_000), random.normal(0.8, 1, 200_000)
    truth = float((np.searchsorted(np.sort(large[0]), large[1]) / 200_000).mean())
    held = 0
    for _ in range(300):
        label = (random.random(600) < 0.3).astype(np.uint8)
        score = random.normal(0.8 * label, 1)
        bounds = auc_interval(label, score, random.lognormal(0, 1, 600))
        assert bounds is not None
        held += bounds.lower <= truth <= bounds.upper
    assert 273 <= held <= 300


def test_one_class_has_no_auc() -> None:
    label, logit, weight = sample(9)
    assert auc(np.zeros_like(label), logit, weight) is None
    assert auc_interval(np.zeros_like(label), logit, weight) is None


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibration_fits_weighted_rows(method: str) -> None:
    """Clicks that count four times make the calibrated scores those of that many."""
    label, logit, _ = sample(10)
    data = clicks.dataset(ROWS)
    weight = np.where(label == 1, 4.0, 1.0).astype(np.float32)
    fit = Calibration.fit(method, replace(data, label=label, weight=weight), logit)
    score = sigmoid(fit.apply(logit))
    assert np.average(score, weights=weight) == pytest.approx(
        np.average(label, weights=weight), abs=0.01
    )
