"""Old weights that fit a new network, or do not: layers, lists that share rows, empty kernels."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from app.bundle.bundle import Bundle
from app.features.layout import Layout, Slot
from app.features.vocabulary import Vocabulary
from model.config import TrainConfig
from model.networks import build
from model.networks.network import Network
from model.training.warm_start import WarmStart, _count, learned_rows
from tests.support.clicks import LAYOUT

CONFIG = TrainConfig(embedding_size=4, hidden=(8, 8))
ATTENDING = Layout(
    context=(),
    candidate=(Slot("item", "item", 1, 5, mean=6),),
    context_lists=(Slot("seen", "seen", 1, 5, mean=7, shares="item"),),
    candidate_lists=(),
)


def test_a_list_that_attends_says_nothing_of_its_fields_rows() -> None:
    """Its mean alone is its own: the field's tells which rows are learned, and values count once.

    No training has named row 1, which has the field's mean.
    """
    table = torch.arange(16.0).reshape(8, 2)
    table[1] = table[6]
    bundle = SimpleNamespace(
        manifest=SimpleNamespace(training={"config": {}}, statistics={}),
        vocabulary=SimpleNamespace(layout=ATTENDING),
    )
    learned = learned_rows(cast(Bundle, bundle), table)
    assert learned.tolist() == [True, False, True, True, True, True, False, False]
    same = Vocabulary(ATTENDING, {})
    assert _count(same, same, np.arange(8)) == {"known": 3, "new": 0, "gone": 0}


def start_of(network: Network) -> WarmStart:
    """Return a start from a network, with the weights that a graph would hold."""
    weights = {
        name: value.detach()
        for name, value in network.named_parameters()
        if value.numel() and ".norms." not in name
    }
    bundle = SimpleNamespace(manifest=SimpleNamespace(network="any"))
    data, none = cast(Any, None), torch.zeros(0, dtype=torch.bool)
    return WarmStart(cast(Bundle, bundle), weights, data, np.zeros(0, np.int64), none, {}, False)


def test_layers_that_are_left_over_are_an_obstacle() -> None:
    """The first and the last layer alone would fit, and make another function."""
    start = start_of(build(LAYOUT, CONFIG))
    assert start.obstacle(build(LAYOUT, CONFIG)) is None
    fewer = build(LAYOUT, replace(CONFIG, hidden=(8,)))
    assert start.obstacle(fewer) == "mlp.deeper.0.bias is not here"


@pytest.mark.parametrize("name", ["opnn", "fibinet"])
def test_parameters_without_numbers_are_no_obstacle(name: str) -> None:
    """A side of one field has no pairs; their empty kernel is in no graph."""
    network = build(LAYOUT, replace(CONFIG, network=name))
    assert any(value.numel() == 0 for value in network.parameters())
    assert start_of(network).obstacle(network) is None
