"""Paired differences have the right value and an error that repeated samples bear out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from model.quality.figures import auc
from model.quality.paired import ONE_SIDED, Estimate, auc_difference, mean_ratio

Floats = NDArray[np.float64]


def scored(rows: int, random: np.random.Generator) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """Labels, scores, and other scores that are the same but for a tenth of noise."""
    label = (random.random(rows) < 0.3).astype(np.uint8)
    first = random.normal(label, 1.0)
    return label, first, first + random.normal(0, 0.1, rows)


def test_bounds_by_hand() -> None:
    """One bound lies 1.645 standard errors above the estimate, the other as far below it."""
    estimate = Estimate(0.5, 0.1)
    assert estimate.most == pytest.approx(0.5 + 0.1 * ONE_SIDED)
    assert estimate.least == pytest.approx(0.5 - 0.1 * ONE_SIDED)
    # The normal distribution's 95 % point.
    assert 0.5 * (1 + math.erf(ONE_SIDED / math.sqrt(2))) == pytest.approx(0.95, abs=1e-4)


def test_auc_difference_by_hand() -> None:
    """Placements of clicks differ by (1/2, 0), of the others by (1/2, 0): variance 1/8 + 1/8."""
    label = np.array([0, 1, 0, 1], np.uint8)
    found = auc_difference(label, np.array([-2.0, -1, 1, 2]), np.array([-1.0, -2, 1, 2]))
    assert found.value == pytest.approx(0.75 - 0.5)
    assert found.error == pytest.approx(math.sqrt(1 / 8 / 2 + 1 / 8 / 2))


def test_ties_count_half() -> None:
    """Equal scores of a click and another row are half a pair in order."""
    label = np.array([0, 1, 0, 1], np.uint8)
    found = auc_difference(label, np.array([0.0, 1, 0, 1]), np.zeros(4))
    assert found == Estimate(0.5, 0.0)


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_the_difference_is_that_of_both_auc(decimals: int) -> None:
    """With and without ties, in either order."""
    label, first, second = scored(2_000, np.random.default_rng(1))
    first, second = first.round(decimals), second.round(decimals)
    one, other = auc(label, first), auc(label, second)
    assert one is not None
    assert other is not None
    there, back = auc_difference(label, first, second), auc_difference(label, second, first)
    assert there.value == pytest.approx(one - other, abs=1e-12)
    assert (back.value, back.error) == pytest.approx((-there.value, there.error), abs=1e-15)


def test_the_error_is_the_spread_of_repeated_samples() -> None:
    """Over 300 samples both errors are the standard deviation of their estimates."""
    random = np.random.default_rng(1)
    differences, ratios = [], []
    for _ in range(300):
        label, first, second = scored(500, random)
        differences.append(auc_difference(label, first, second))
        ratios.append(mean_ratio(np.exp(first), np.exp(second)))
    for found in (differences, ratios):
        spread = np.std([each.value for each in found])
        # A standard deviation of 300 is known within 4 %.
        assert np.mean([each.error for each in found]) == pytest.approx(spread, rel=0.15)


def test_pairing_pays() -> None:
    """The error is far below what two independent samples of rows would have."""
    label, first, second = scored(5_000, np.random.default_rng(1))
    _, elsewhere, _ = scored(5_000, np.random.default_rng(2))
    paired = auc_difference(label, first, second).error
    assert paired < 0.2 * auc_difference(label, first, elsewhere).error


def test_errors_shrink_with_the_root_of_the_rows() -> None:
    """Four times the rows, half the error."""
    label, first, second = scored(40_000, np.random.default_rng(1))
    few = slice(0, 10_000)
    auc = [auc_difference(label[rows], first[rows], second[rows]) for rows in (slice(None), few)]
    mean = [mean_ratio(np.exp(first[rows]), np.exp(second[rows])) for rows in (slice(None), few)]
    for whole, part in (auc, mean):
        assert part.error == pytest.approx(2 * whole.error, rel=0.1)


def test_mean_ratio_by_hand() -> None:
    """Residuals of (2, 4) over (1, 3) at a ratio of 3/2 are 1/2 and -1/2."""
    found = mean_ratio(np.array([2.0, 4.0]), np.array([1.0, 3.0]))
    assert found.value == 1.5
    assert found.error == pytest.approx(math.sqrt(0.5) / math.sqrt(2) / 2)


def test_equal_scores_differ_by_nothing() -> None:
    """A model beside itself has a difference of 0 and a ratio of 1, both without error."""
    label, first, _ = scored(100, np.random.default_rng(1))
    assert auc_difference(label, first, first) == Estimate(0.0, 0.0)
    found = mean_ratio(np.exp(first), np.exp(first))
    assert (found.value, found.error) == pytest.approx((1, 0))


@pytest.mark.parametrize("clicks", [0, 1, 4, 5])
def test_one_row_of_a_class_leaves_the_difference_undefined(clicks: int) -> None:
    """A variance needs two of each; NaN, not an error of 0."""
    label = (np.arange(5) < clicks).astype(np.uint8)
    found = auc_difference(label, np.arange(5.0), np.arange(5.0))
    assert math.isnan(found.value)
    assert math.isnan(found.error)


def test_one_row_leaves_the_ratio_undefined() -> None:
    """A variance needs two rows."""
    assert math.isnan(mean_ratio(np.ones(1), np.ones(1)).error)
