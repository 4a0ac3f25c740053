"""Training of weighted rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.quality.figures import sigmoid
from model.training.evaluation import predict
from model.training.fit import fit
from tests.support import clicks

ROWS = 4_000
CONFIG = replace(clicks.CONFIG, epochs=3, dropout=0.0)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    """What a network says that was trained without weights."""
    train, validation = clicks.dataset(ROWS), clicks.dataset(500, seed=1)
    return predict(fit(clicks.LAYOUT, train, validation, CONFIG).network, validation)


@pytest.mark.parametrize("weight", [1.0, 0.3, 7.0])
def test_equal_weights_train_the_same_network(weight: float, logits: np.ndarray) -> None:
    """Whatever they are: bit for bit."""
    train, validation = clicks.dataset(ROWS), clicks.dataset(500, seed=1)
    weighed = replace(train, weight=np.full(ROWS, weight, np.float32))
    found = fit(clicks.LAYOUT, weighed, validation, CONFIG)
    assert predict(found.network, validation) == pytest.approx(logits, abs=2e-6)


@pytest.mark.parametrize("negative_rate", [1.0, 0.5])
def test_the_network_learns_the_weighted_click_rate(negative_rate: float) -> None:
    """Of all rows, and of those of each user: clicks of even users count four times."""
    train, validation = clicks.dataset(ROWS), clicks.dataset(500, seed=1)
    user = train.context[:, 0]
    heavy = (train.label == 1) & (user % 2 == 0)
    weight = np.where(heavy, 4.0, 1.0).astype(np.float32)
    train = replace(train, weight=weight)
    config = replace(CONFIG, epochs=6, negative_rate=negative_rate)
    network = fit(clicks.LAYOUT, train, validation, config).network
    score = sigmoid(predict(network, train))
    assert np.average(score, weights=weight) == pytest.approx(
        np.average(train.label, weights=weight), abs=1e-3
    )
    for even in (True, False):
        rows = (user % 2 == 0) == even
        rate = np.average(train.label[rows], weights=weight[rows])
        assert np.average(score[rows], weights=weight[rows]) == pytest.approx(rate, abs=0.05)
