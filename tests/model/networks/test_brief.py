"""Products in bfloat16: their values, and the sums that processors with AMX are given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.config import NETWORKS
from model.networks.brief import MULTIPLE, brief_linear, filled
from model.training.trainer import Trainer
from tests.support.clicks import CONFIG, LAYOUT, dataset

SHAPES = [(7, 33, 5), (64, 32, 96), (1, 1, 1), (40, 0, 3)]


class Sums(TorchDispatchMode):
    """Notes how many terms each sum of a product in bfloat16 has."""

    def __init__(self) -> None:
        super().__init__()
        self.terms: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in {"mm", "addmm", "bmm", "baddbmm", "linear"} and args[-1].dtype == torch.bfloat16:
            self.terms.append(args[-1].shape[-2])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_product_and_its_gradients(
    shape: tuple[int, int, int], bias: bool, dtype: torch.dtype
) -> None:
    """They are those of float32 but for the rounding to eight bits."""
    rows, inputs, hidden = shape
    torch.manual_seed(0)
    value = torch.randn(rows, inputs).to(dtype).requires_grad_()
    weight = torch.randn(hidden, inputs, requires_grad=True)
    added = torch.randn(hidden, requires_grad=True) if bias else None
    gradient = torch.randn(rows, hidden)
    whole = [each for each in (value, weight, added) if each is not None]

    found = brief_linear(value, weight, added)
    assert found.dtype == torch.bfloat16
    found_gradients = torch.autograd.grad(found, whole, gradient.bfloat16())

    exact = [each.detach().float().requires_grad_() for each in whole]
    expected = torch.nn.functional.linear(*exact)
    expected_gradients = torch.autograd.grad(expected, exact, gradient)
    for each, wanted, given in zip(
        (found, *found_gradients), (expected, *expected_gradients), (None, *whole), strict=True
    ):
        assert given is None or each.dtype == given.dtype
        size = max(1.0, *(wanted.abs().flatten().tolist() or [1.0]))
        torch.testing.assert_close(each.float(), wanted, rtol=0.02, atol=0.02 * size)


def test_zeros_fill_up() -> None:
    """What stands beside a matrix in memory does not come near its product."""
    around = torch.full((9, 40), torch.nan)
    around[:7, :33] = 1
    matrix = filled(around[:7, :33])
    assert matrix.shape == (MULTIPLE, 2 * MULTIPLE)
    assert matrix.sum() == 7 * 33
    assert filled(torch.ones(32, 64)).shape == (32, 64)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_sums_whole_tiles(name: str) -> None:
    """Every product in bfloat16 of a step, forth and back, has a multiple of 32 terms."""
    config = replace(CONFIG, network=name, precision="bfloat16", hidden=(20, 12), dropout=0.1)
    trainer = Trainer(LAYOUT, dataset(100), config)
    with Sums() as sums:
        trainer.step(np.arange(77), 0.001)
    assert all(terms % MULTIPLE == 0 for terms in sums.terms), sums.terms
    hidden = [each for each in trainer.network.modules() if hasattr(each, "brief")]
    assert bool(sums.terms) == bool(hidden)
