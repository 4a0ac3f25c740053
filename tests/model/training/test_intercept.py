"""The mean score of a trained network is the click rate, whatever dropout or the schedule did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.config import NETWORKS, SHALLOW, TrainConfig
from model.data.dataset import Dataset
from model.networks import build
from model.networks.network import Network
from model.quality.figures import auc, sigmoid
from model.training.evaluation import predict
from model.training.fit import FitResult, fit
from model.training.intercept import bias_to_add
from tests.support.clicks import CONFIG, LAYOUT, dataset

pytestmark = pytest.mark.slow

RATE, ROWS = 0.02, 8_000


def rare(rows: int, seed: int) -> Dataset:
    """Return rows of which one in fifty is a click, most where user and item match."""
    data = dataset(rows, seed)
    match = (data.context[:, 0] + data.candidate[:, 0]) % 2 == 0
    drawn = np.random.default_rng(seed + 1_000).random(rows)
    return replace(data, label=(drawn < np.where(match, 1.9, 0.1) * RATE).astype(np.uint8))


def settings(network: str) -> TrainConfig:
    """Return settings under which a network's mean score strays: much dropout, few steps."""
    shallow = network in SHALLOW
    return replace(
        CONFIG,
        network=network,
        hidden=(32, 32),
        dropout=0.5,
        batch_size=256,
        learning_rate=0.05 if shallow else 0.01,
        epochs=3,
        oov_rate=0.05,
    )


def trained(config: TrainConfig) -> FitResult:
    return fit(LAYOUT, rare(ROWS, 1), rare(2_000, 2), config, progress=False)


@pytest.mark.parametrize("rate", [1e-6, 0.02, 0.5, 0.999])
@pytest.mark.parametrize("mean", [-30.0, -4.0, 0.0, 6.0])
@pytest.mark.parametrize("deviation", [0.0, 0.5, 3.0, 50.0])
def test_any_logits_get_the_mean_score(rate: float, mean: float, deviation: float) -> None:
    """Narrow or wide, too high or too low by any amount; rows count by their weights."""
    random = np.random.default_rng(1)
    logit = random.normal(mean, deviation, 1_000).astype(np.float32)
    weight = random.choice([1.0, 10.0], 1_000)
    moved = logit.astype(np.float64) + bias_to_add(logit, weight, rate)
    assert np.average(sigmoid(moved), weights=weight) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_mean_score_is_the_click_rate(name: str) -> None:
    """On the training part exactly, on others within two standard errors; the order stays."""
    result = trained(settings(name))
    train, other = rare(ROWS, 1), rare(20_000, 3)
    score = sigmoid(predict(result.network, train))
    assert score.mean() == pytest.approx(train.label.mean(), rel=1e-4)
    logit = predict(result.network, other)
    error = np.sqrt(RATE * (1 / len(train) + 1 / len(other)))
    assert abs(sigmoid(logit).mean() - other.label.mean()) < 2 * error
    before = logit - np.float32(result.bias_added)
    assert auc(other.label, logit) == pytest.approx(auc(other.label, before), abs=1e-4)


def test_the_noise_of_dropout_raises_the_mean_score_of_training() -> None:
    """The same weights score rare clicks lower without it: scoring is below what training sees."""
    config = replace(settings("ipnn"), batch_norm=False, init_std=1.0)
    torch.manual_seed(1)
    network, inputs = build(LAYOUT, config, RATE), rare(ROWS, 1).inputs()
    with torch.no_grad():
        noisy = torch.sigmoid(network(inputs)).mean().item()
        network.eval()
        still = torch.sigmoid(network(inputs)).mean().item()
    assert noisy > 1.1 * still


@pytest.mark.parametrize("rate", [1.0, 0.25])
def test_what_is_thinned_ends_at_the_rate_of_all(rate: float) -> None:
    """Negatives left out of the epochs, and of the files, are counted."""
    train, validation = (replace(rare(*which), kept=0.5) for which in ((ROWS, 1), (2_000, 2)))
    config = replace(settings("deepfm"), negative_rate=rate)
    result = fit(LAYOUT, train, validation, config, progress=False)
    weight = np.where(train.label == 1, 1.0, 2.0)
    score = sigmoid(predict(result.network, train))
    expected = np.average(train.label, weights=weight)
    assert np.average(score, weights=weight) == pytest.approx(expected, rel=1e-4)


def test_weights_to_start_from_are_put_right_too() -> None:
    """Yesterday's weights, that training does not improve, end at the click rate of today."""
    config, train = replace(settings("lr"), learning_rate=1e-9), rare(ROWS, 1)

    def far_off(network: Network) -> None:
        with torch.no_grad():
            network.bias.fill_(-2.0)

    result = fit(LAYOUT, train, rare(2_000, 2), config, progress=False, begin=far_off)
    rate = train.label.mean()
    assert result.bias_added == pytest.approx(np.log(rate / (1 - rate)) + 2, abs=1e-3)
    assert sigmoid(predict(result.network, train)).mean() == pytest.approx(rate, rel=1e-4)
