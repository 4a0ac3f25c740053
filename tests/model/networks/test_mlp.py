"""Dropout keeps what it promises; the first layer's halves are one layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.networks.mlp import Dropout, Mlp
from tests.support.networks import CONFIG


def test_dropout_keeps_the_expected_value() -> None:
    """A quarter of the values is dropped and the rest scaled up; evaluation drops none."""
    torch.manual_seed(0)
    dropout, ones = Dropout(0.25), torch.ones(1_000, 1_001)
    value = dropout(ones)
    assert value.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert value.mean().item() == pytest.approx(1.0, abs=0.01)
    assert dropout.eval()(ones) is ones


@pytest.mark.parametrize("rate", [0.0, 0.001])
def test_dropout_below_one_in_512_drops_nothing(rate: float) -> None:
    """The rate is rounded to a multiple of 1/256."""
    ones = torch.ones(4, 4)
    assert Dropout(rate)(ones) is ones


@torch.no_grad()
def test_context_and_row_are_one_first_layer() -> None:
    """Each row's output is that of its context's inputs and its own, side by side."""
    torch.manual_seed(0)
    mlp = Mlp(3, 2, replace(CONFIG, batch_norm=False), activation=torch.tanh).eval()
    context, row, home = torch.randn(2, 3), torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    hidden = torch.tanh(mlp.first(torch.cat([context[home], row], 1)))
    expected = mlp.output(torch.tanh(mlp.deeper[0](hidden))).squeeze(1)
    torch.testing.assert_close(mlp(context, row, home), expected)
