"""DenseAdam moves weights as torch's own fused Adam does, and takes over its state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from model.training.dense_adam import DenseAdam

SHAPES = ((7, 5), (5,), (), (3, 2, 4), (2, 3))
"""The last two are decayed; of the others the third has no gradient in some steps."""
DECAYED, L2 = 3, 0.03


def parameters() -> list[nn.Parameter]:
    """The same ones each time."""
    torch.manual_seed(4)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def usual(values: list[nn.Parameter]) -> torch.optim.Adam:
    """Torch's own over the same parameters."""
    groups: list[dict[str, Any]] = [
        {"params": values[:DECAYED]},
        {"params": values[DECAYED:], "weight_decay": L2},
    ]
    return torch.optim.Adam(groups, lr=1.0, fused=True)


def steps(first: int, last: int) -> list[tuple[float, list[Tensor | None]]]:
    """The rate and the gradients of some steps, of very different sizes."""
    found = []
    for step in range(first, last):
        torch.manual_seed(100 + step)
        gradients: list[Tensor | None] = [
            torch.randn(shape) * 10.0 ** -(step % 5) for shape in SHAPES
        ]
        if step % 3 == 1:
            gradients[2] = None
        found.append((0.05 / (1 + step), gradients))
    return found


def move_usual(adam: torch.optim.Adam, values: list[nn.Parameter], first: int, last: int) -> None:
    for rate, gradients in steps(first, last):
        for value, gradient in zip(values, gradients, strict=True):
            value.grad = gradient
        for group in adam.param_groups:
            group["lr"] = rate
        adam.step()


def move(adam: DenseAdam, values: list[nn.Parameter], first: int, last: int) -> None:
    for rate, gradients in steps(first, last):
        for value, gradient in zip(values, gradients, strict=True):
            value.grad = gradient
        adam.step(rate)


def named_state(adam: torch.optim.Adam, values: list[nn.Parameter]) -> dict[str, Tensor]:
    return {
        f"{number}.{name}": tensor.clone()
        for number, value in enumerate(values)
        for name, tensor in adam.state[value].items()
    }


def test_weights_and_state_are_those_of_torch() -> None:
    """Bit for bit after each of many steps, in the same order too."""
    mine, theirs = parameters(), parameters()
    adam, torchs = DenseAdam(mine, decayed=mine[DECAYED:], l2=L2), usual(theirs)
    for step in range(25):
        move(adam, mine, step, step + 1)
        move_usual(torchs, theirs, step, step + 1)
        for value, expected in zip(mine, theirs, strict=True):
            assert torch.equal(value, expected), step
        state, expected_state = adam.state(), named_state(torchs, theirs)
        assert [*state] == [*expected_state]
        for name, tensor in expected_state.items():
            assert state[name].dtype == tensor.dtype
            assert torch.equal(state[name], tensor), name


def test_it_goes_on_from_a_state_of_torch() -> None:
    """A checkpoint written when torch's own was the optimiser is resumed with the same bits."""
    mine, theirs = parameters(), parameters()
    torchs = usual(theirs)
    move_usual(torchs, theirs, 0, 6)
    with torch.no_grad():
        for value, given in zip(mine, theirs, strict=True):
            value.copy_(given)
    adam = DenseAdam(mine, decayed=mine[DECAYED:], l2=L2)
    adam.restore(named_state(torchs, theirs))
    move(adam, mine, 6, 12)
    move_usual(torchs, theirs, 6, 12)
    for value, expected in zip(mine, theirs, strict=True):
        assert torch.equal(value, expected)


def test_what_is_restored_is_a_copy() -> None:
    """Steps leave the tensors alone that it was restored from."""
    values = parameters()
    adam = DenseAdam(values)
    given = {name: value.clone() for name, value in adam.state().items()}
    adam.restore(given)
    move(adam, values, 0, 1)
    assert not any(value.any() for value in given.values())


def test_weights_of_pairs_decay_and_others_do_not() -> None:
    """Where the loss is flat, L2 alone moves: by the rate in the first step."""
    dense, pairs = (nn.Parameter(torch.full((2,), 0.5)) for _ in range(2))
    adam = DenseAdam([dense, pairs], decayed=[pairs], l2=0.1)
    dense.grad = pairs.grad = torch.zeros(2)
    adam.step(0.01)
    torch.testing.assert_close(dense.detach(), torch.full((2,), 0.5), rtol=0, atol=0)
    torch.testing.assert_close(pairs.detach(), torch.full((2,), 0.49))
