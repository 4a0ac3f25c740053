"""The benchmark's plain form of a network is the same function."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from app.features.layout import Layout, Slot
from model.config import NETWORKS
from tests.bench.plain import PlainGraph
from tests.support.networks import CONFIG, inputs, trained

LAYOUT = Layout(
    tuple(Slot(f"u{i}", f"u{i}", 1 + 5 * i, 5) for i in range(4)),
    tuple(Slot(f"i{i}", f"i{i}", 21 + 5 * i, 5) for i in range(3)),
    (),
    (),
)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_plain_and_factored_agree(name: str) -> None:
    """Every row's fields side by side give the logit of its context and its candidate."""
    config = replace(CONFIG, network=name, batch_norm=False)
    network = trained(name, LAYOUT, config)
    values = inputs(3, 40, 2, layout=LAYOUT)
    index = torch.cat([values.context[values.row_context.long()], values.candidate], 1)
    logit, score = PlainGraph(network, LAYOUT, config)(index)
    torch.testing.assert_close(logit, network(values), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(score, torch.sigmoid(logit))
