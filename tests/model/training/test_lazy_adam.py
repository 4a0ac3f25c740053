"""LazyAdam moves the rows that it is given, as Adam would, and no others."""

from __future__ import annotations

import numpy as np
import torch

from model.training.lazy_adam import LazyAdam

RATE = 0.1


def step(adam: LazyAdam, rows: list[int], gradient: torch.Tensor) -> None:
    """Take one step over some rows, padding first."""
    row = torch.tensor([0, *rows])
    value = adam.gather(row)
    value.grad = torch.cat([torch.zeros(1, gradient.shape[1]), gradient])
    adam.step(row, value, RATE)


def test_every_row_named_is_adam() -> None:
    """Over steps that name every row it is torch's own Adam."""
    torch.manual_seed(1)
    table = torch.randn(5, 3)
    table[0] = 0
    other = table[1:].clone().requires_grad_()
    adam, usual = LazyAdam(table, None), torch.optim.Adam([other], lr=RATE)
    for _ in range(4):
        gradient = torch.randn(4, 3)
        step(adam, [1, 2, 3, 4], gradient)
        other.grad = gradient.clone()
        usual.step()
    torch.testing.assert_close(table[1:], other.detach(), atol=1e-6, rtol=1e-5)
    assert not table[0].any()


def test_each_row_is_decayed_by_its_own_l2() -> None:
    """One step by hand: the gradient of a row has lambda of that very row times its value."""
    table = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])
    row_l2 = torch.tensor([9.0, 0.5, 0.0, 0.25, 1.0])
    expected = table.clone()
    adam = LazyAdam(table, row_l2)
    given = {1: 0.1, 3: -0.9, 4: 0.0}
    for row, gradient in given.items():
        total = gradient + row_l2[row].item() * table[row].item()
        # After one step both of Adam's means, corrected for their start, are the gradient's own.
        expected[row] -= RATE * total / (abs(total) + adam.EPSILON)
    step(adam, [*given], torch.tensor([[value] for value in given.values()]))
    torch.testing.assert_close(table, expected)
    moments = adam.state()
    totals = [0.0, 0.1 + 0.5, 0.0, -0.9 + 0.75, 4.0]
    np.testing.assert_allclose(moments["mean"][:, 0], 0.1 * np.array(totals), atol=1e-6)


def test_a_row_that_is_not_named_stands_still() -> None:
    """Its value and both its moments stay as they are, bit for bit."""
    torch.manual_seed(2)
    table = torch.randn(4, 2)
    adam = LazyAdam(table, torch.full((4,), 0.3))
    step(adam, [1, 2, 3], torch.randn(3, 2))
    before = {name: value.clone() for name, value in {**adam.state(), "table": table}.items()}
    step(adam, [1, 3], torch.randn(2, 2))
    for name, value in {**adam.state(), "table": table}.items():
        assert torch.equal(value[2], before[name][2]), name
        assert not torch.equal(value[1], before[name][1]), name


def test_what_was_restored_goes_on_as_before() -> None:
    """Moments and the count of steps are all that it holds beside the table."""
    torch.manual_seed(3)
    table, gradients = torch.randn(3, 2), [torch.randn(2, 2) for _ in range(3)]
    one = LazyAdam(table, None)
    step(one, [1, 2], gradients[0])
    step(one, [1, 2], gradients[1])
    copy = table.clone()
    other = LazyAdam(copy, None)
    other.restore(one.state(), 2)
    for adam in (one, other):
        step(adam, [1, 2], gradients[2])
    assert torch.equal(table, copy)
