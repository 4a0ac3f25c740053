"""Intervals of AUC and log loss hold the truth as often as they say, few clicks or many."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from model.quality.figures import auc, log_loss, losses, sigmoid
from model.quality.intervals import auc_interval, mean_loss_interval, shares_below

Floats = NDArray[np.float64]
Labels = NDArray[np.uint8]
SAMPLES = 300


def ranked(clicks: int, others: int, random: np.random.Generator) -> tuple[Labels, Floats]:
    """Labels and scores of two normal distributions, whose AUC is 0.76."""
    label = np.repeat(np.array([1, 0], np.uint8), [clicks, others])
    return label, random.normal(label, 1.0)


@pytest.mark.parametrize("clicks", [2, 3, 10, 30, 100, 300])
def test_the_truth_is_in_the_interval_of_the_auc(clicks: int) -> None:
    """Nineteen times in twenty or more, and the interval is no wider than it has to be."""
    random, truth = np.random.default_rng(clicks), 0.5 * (1 + math.erf(0.5))
    found = [auc_interval(*ranked(clicks, 500, random)) for _ in range(SAMPLES)]
    held = [each.lower <= truth <= each.upper for each in found if each]
    # Of 300 samples a share of 0.95 is known within 0.03.
    assert np.mean(held) > 0.92
    if clicks >= 100:
        assert np.mean(held) < 0.98


@pytest.mark.parametrize("expected", [1, 3, 10, 100])
def test_the_truth_is_in_the_interval_of_the_log_loss(expected: int) -> None:
    """Nineteen times in twenty or more, samples without any click included."""
    random, rows = np.random.default_rng(1), 2_000
    base = math.log(expected / rows)
    many = random.normal(base, 1.0, 400_000)
    truth = float((sigmoid(many) * losses(np.ones(1, np.uint8), many)).mean())
    truth += float((sigmoid(-many) * losses(np.zeros(1, np.uint8), many)).mean())
    held = []
    for _ in range(SAMPLES):
        logit = random.normal(base, 1.0, rows)
        label = (random.random(rows) < sigmoid(logit)).astype(np.uint8)
        found = mean_loss_interval(
            losses(label, logit), np.ones(rows), float(sigmoid(logit).mean())
        )
        held.append(found.lower <= truth <= found.upper)
    assert np.mean(held) > 0.92


def test_three_clicks_in_perfect_order_prove_little() -> None:
    """An AUC of 1 from three clicks may be one of a half; from three hundred it may not."""
    for clicks, least, most in ((3, 0.05, 0.5), (300, 0.9, 1.0)):
        label = (np.arange(1_000) < clicks).astype(np.uint8)
        found = auc_interval(label, label.astype(np.float64))
        assert found is not None
        assert least < found.lower < most
        assert found.upper == 1.0


def test_the_interval_of_scores_the_other_way_round_is_the_mirror_image() -> None:
    """The interval knows no direction."""
    label, score = ranked(20, 200, np.random.default_rng(1))
    found, mirrored = auc_interval(label, score), auc_interval(label, -score)
    assert found is not None
    assert mirrored is not None
    assert found == pytest.approx((1 - mirrored.upper, 1 - mirrored.lower))


def test_equal_scores_have_an_interval_about_a_half() -> None:
    """Scores that tell nothing apart have an AUC of a half, and hardly anything else."""
    label = (np.arange(300) < 100).astype(np.uint8)
    found = auc_interval(label, np.zeros(300))
    assert found is not None
    assert 0.48 < found.lower < 0.5 < found.upper < 0.52


@pytest.mark.parametrize("clicks", [1, 2, 3])
def test_few_clicks_never_look_certain(clicks: int) -> None:
    """Wherever one to three clicks rank, near each other too, the interval is wide."""
    for place in np.linspace(0, 999, 12):
        label, score = np.zeros(1_000, np.uint8), np.arange(1_000.0)
        label[min(int(place), 999 - clicks) + np.arange(clicks)] = 1
        found = auc_interval(label, score)
        assert found is not None
        assert found.upper - found.lower > 0.4


@pytest.mark.parametrize("clicks", [0, 5])
def test_one_class_has_no_interval(clicks: int) -> None:
    """Without an AUC there are no bounds."""
    label = (np.arange(5) < clicks).astype(np.uint8)
    assert auc_interval(label, np.arange(5.0)) is None


def test_bounds_hold_the_estimate_and_are_possible() -> None:
    """The estimate is within, an AUC between 0 and 1, a log loss not below 0."""
    random = np.random.default_rng(1)
    for clicks in (1, 2, 199):
        label, score = ranked(clicks, 200 - clicks, random)
        for place in (score, label.astype(float), 1.0 - label):
            found, estimate = auc_interval(label, place), auc(label, place)
            assert found is not None
            assert estimate is not None
            assert 0 <= found.lower <= estimate <= found.upper <= 1
    for logit in (-1000.0, 0.0, 1000.0):
        label = np.array([0, 1, 0], np.uint8)
        bounds = mean_loss_interval(
            losses(label, np.full(3, logit)), np.ones(3), float(sigmoid(np.array([logit]))[0])
        )
        estimate = log_loss(label, np.full(3, logit))
        assert 0 <= bounds.lower <= estimate <= bounds.upper < math.inf


def test_rows_left_out_make_the_log_loss_less_certain() -> None:
    """Of a tenth of the other rows, each for ten, the interval is wider than of all."""
    random = np.random.default_rng(1)
    logit = random.normal(-2, 1, 20_000)
    label = (random.random(20_000) < sigmoid(logit)).astype(np.uint8)
    kept = np.flatnonzero((label == 1) | (np.arange(20_000) % 10 == 0))
    mean = float(sigmoid(logit).mean())
    every = mean_loss_interval(losses(label, logit), np.ones(20_000), mean)
    weight = np.where(label[kept] == 1, 1.0, 10.0)
    some = mean_loss_interval(losses(label[kept], logit[kept]), weight, mean)
    assert np.mean(some) == pytest.approx(np.mean(every), rel=0.05)
    assert 1.0 < (some.upper - some.lower) / (every.upper - every.lower) < 3.0


def test_ties_count_half() -> None:
    """A value beside equal ones is above half of them."""
    assert shares_below(np.array([0.0, 1.0, 3.0]), np.array([1.0, 1.0, 2.0, 2.0])).tolist() == [
        0.0,
        0.25,
        1.0,
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("degrees", "within"), [(2, 0.04), (3, 0.01), (30, 1e-4)])
def test_student(degrees: int, within: float) -> None:
    """The expansion of Student's t is near enough from two degrees of freedom on."""
    from scipy.stats import t as student  # a second of import, wanted here only

    from model.quality.intervals import _student

    assert _student(degrees) == pytest.approx(student.ppf(0.975, degrees), rel=within)
