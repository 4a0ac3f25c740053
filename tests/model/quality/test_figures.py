"""Metrics agree with scikit-learn, and with numbers worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from model.quality.figures import (
    Counts,
    auc,
    evaluate_scores,
    few_clicks,
    log_loss,
    reliability,
    sigmoid,
)
from model.quality.intervals import auc_interval


def labels_and_logits(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels drawn with the probability that the logits say."""
    random = np.random.default_rng(seed)
    logit = random.normal(-1.0, 2.0, rows).astype(np.float32)
    label = (random.random(rows) < sigmoid(logit)).astype(np.uint8)
    return label, logit


@pytest.mark.slow
@pytest.mark.parametrize("distinct", [2, 7, 100_000])
def test_auc_is_exact_with_and_without_ties(distinct: int) -> None:
    """AUC over the whole split equals scikit-learn's, tied scores counting half."""
    from sklearn.metrics import roc_auc_score  # a second of import, wanted here only

    label, logit = labels_and_logits(2_000)
    rounded = np.floor(sigmoid(logit) * distinct).astype(np.float32)
    assert auc(label, rounded) == pytest.approx(roc_auc_score(label, rounded), abs=1e-12)


def test_auc_of_constant_scores_is_a_half() -> None:
    """Scores that tell nothing apart get exactly one half."""
    assert auc(np.array([0, 1, 1], np.uint8), np.zeros(3, np.float32)) == 0.5


@pytest.mark.parametrize("value", [0, 1])
def test_auc_is_undefined_for_one_class(value: int) -> None:
    """Labels of one class have no AUC; the rest is still reported, and finite."""
    label = np.full(5, value, np.uint8)
    metrics = evaluate_scores(label, np.linspace(-1, 1, 5))
    assert metrics.auc is None
    assert metrics.auc_lower is None
    assert metrics.auc_upper is None
    assert np.isfinite([metrics.log_loss_lower, metrics.log_loss, metrics.log_loss_upper]).all()
    assert (metrics.calibration is None) == (value == 0)


def test_log_loss_matches_scikit_learn() -> None:
    """Log loss from logits equals the one from probabilities."""
    from sklearn.metrics import (
        log_loss as reference_log_loss,  # a second of import, wanted here only
    )

    label, logit = labels_and_logits(2_000)
    expected = reference_log_loss(label, sigmoid(logit))
    assert log_loss(label, logit) == pytest.approx(expected, abs=1e-12)


def test_log_loss_survives_extreme_logits() -> None:
    """A confidently wrong score costs its distance, not infinity or NaN."""
    label = np.array([0, 1, 1, 0], np.uint8)
    logit = np.array([1000.0, -1000.0, 1000.0, -1000.0], np.float32)
    assert log_loss(label, logit) == 500.0
    assert sigmoid(logit).tolist() == [1.0, 0.0, 1.0, 0.0]


def test_calibration_compares_promised_and_observed_clicks() -> None:
    """Twice as many clicks promised as observed is a calibration of 2 and an error of 1/4."""
    metrics = evaluate_scores(np.array([1, 0, 0, 0], np.uint8), np.zeros(4, np.float32))
    assert metrics.calibration == 2.0
    assert metrics.calibration_error == pytest.approx((0.5 * 3 + 0.5) / 4)


def test_reliability_bins_hold_equal_counts() -> None:
    """The bins split the rows evenly in the order of their scores; their means add up."""
    label, logit = labels_and_logits(1_003)
    bins = reliability(label, logit, bins=10)
    assert bins.count.sum() == 1_003
    assert np.ptp(bins.count) <= 1
    assert (np.diff(bins.predicted) > 0).all()
    assert (bins.observed * bins.count).sum() == pytest.approx(label.sum())


def test_true_probabilities_are_calibrated() -> None:
    """Labels drawn with the scores' own probability give a ratio near 1 and a small error."""
    metrics = evaluate_scores(*labels_and_logits(50_000))
    assert metrics.calibration == pytest.approx(1.0, abs=0.02)
    assert metrics.calibration_error < 0.01


def test_rows_left_out_count_as_if_they_were_there() -> None:
    """Where half of the negatives are there, each counts twice in every figure."""
    label, logit = labels_and_logits(2_000)
    thinned = np.flatnonzero((label == 1) | (np.arange(2_000) % 2 == 0))
    twice = np.concatenate([thinned, thinned[label[thinned] == 0]])
    found = evaluate_scores(label[thinned], logit[thinned], kept=0.5)
    expected = evaluate_scores(label[twice], logit[twice])
    assert found.auc == pytest.approx(expected.auc, abs=1e-12)
    assert found.log_loss == pytest.approx(expected.log_loss, abs=1e-12)
    assert found.calibration == pytest.approx(expected.calibration, abs=1e-12)
    assert (found.rows, found.positives) == (len(thinned), expected.positives)
    bins = reliability(label[thinned], logit[thinned], bins=1, kept=0.5)
    assert bins.count.tolist() == [len(twice)]
    assert bins.observed[0] == pytest.approx(label[twice].mean())


def test_intervals_are_beside_the_figures() -> None:
    """Figures lie within their intervals, which people read beside them with the clicks."""
    label, logit = labels_and_logits(2_000)
    found = evaluate_scores(label, logit)
    assert (found.auc_lower, found.auc_upper) == auc_interval(label, logit)
    assert found.auc_lower < found.auc < found.auc_upper
    assert found.log_loss_lower < found.log_loss < found.log_loss_upper
    side = max(found.auc - found.auc_lower, found.auc_upper - found.auc)
    line = found.line()
    assert f"AUC {found.auc:.4f} ± {side:.4f}, log loss {found.log_loss:.4f} ± 0.0" in line
    assert line.endswith(f", {label.sum()} clicks")
    assert "AUC none (one class), log loss" in evaluate_scores(label * 0, logit).line()
    few = evaluate_scores(label[:100], logit[:100])
    assert f"AUC {few.auc:.4f} ({few.auc_lower:.4f} to {few.auc_upper:.4f})" in few.line()
    assert f" ({few.log_loss_lower:.4f} to {few.log_loss_upper:.4f})" in few.line()


def test_few_clicks_are_a_warning() -> None:
    """Parts with fewer than 100 rows of a class are named, and no others."""
    counts = {"train": Counts(10_000, 100), "validation": Counts(9_000, 2), "test": Counts(80, 80)}
    assert few_clicks([("train", counts["train"])]) is None
    warning = few_clicks(counts.items())
    assert warning is not None
    assert "validation (2 clicks in 9,000 rows), test (80 clicks in 80 rows)" in warning
    assert "train" not in warning


def test_metrics_are_plain_json() -> None:
    """Figures go into a manifest as they are."""
    metrics = evaluate_scores(*labels_and_logits(100))
    assert json.loads(json.dumps(metrics.to_dict()))["rows"] == 100


def test_lengths_must_agree() -> None:
    """Labels without scores, and no rows at all, are refused."""
    with pytest.raises(ValueError, match="as many labels as logits"):
        evaluate_scores(np.zeros(2, np.uint8), np.zeros(3))
    with pytest.raises(ValueError, match="at least"):
        evaluate_scores(np.zeros(0, np.uint8), np.zeros(0))
