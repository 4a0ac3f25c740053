"""Adam for the parameters beside the table of embeddings: every step moves each of them whole."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.training.lazy_adam import LazyAdam


@dataclass(frozen=True, slots=True)
class _Moved:
    """A parameter, what Adam knows of it under the names of torch's own, and its L2."""

    parameter: nn.Parameter
    state: dict[str, Tensor]
    l2: float

    @classmethod
    def of(cls, parameter: nn.Parameter, l2: float) -> _Moved:
        """Begin with a parameter that no step has moved."""
        value = parameter.detach()
        # The kernel counts in float32, and where the parameter is.
        state = {"step": torch.zeros((), dtype=torch.float32, device=value.device)}
        state |= {name: torch.zeros_like(value) for name in ("exp_avg", "exp_avg_sq")}
        return cls(parameter, state, l2)


class DenseAdam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) by the kernel of ``torch.optim.Adam(fused=True)``.

    Weights and state are the same, bit for bit. But the first optimiser of ``torch.optim`` imports
    torch's compiler, which is not used here and takes a second of CPU time in each training.
    ``l2`` * value is added to the gradients of the ``decayed`` among the parameters.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        decayed: Collection[nn.Parameter] = (),
        l2: float = 0.0,
    ) -> None:
        own = {id(value) for value in decayed}
        self._moved = [_Moved.of(each, l2 if id(each) in own else 0.0) for each in parameters]

    def state(self) -> dict[str, Tensor]:
        """Return steps and moments by the number of the parameter and their name."""
        return {
            f"{number}.{name}": value
            for number, moved in enumerate(self._moved)
            for name, value in moved.state.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state of :meth:`state`, whichever device it comes from."""
        for name, value in self.state().items():
            value.copy_(state[name])

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move each parameter that has a gradient against it."""
        moved = [each for each in self._moved if each.parameter.grad is not None]
        for l2 in {each.l2 for each in moved}:
            _move([each for each in moved if each.l2 == l2], l2, rate)


def _move(moved: list[_Moved], l2: float, rate: float) -> None:
    """Move parameters of one L2."""
    step = [each.state["step"] for each in moved]
    torch._foreach_add_(step, 1)
    torch._fused_adam_(
        [each.parameter for each in moved],
        [each.parameter.grad for each in moved if each.parameter.grad is not None],
        [each.state["exp_avg"] for each in moved],
        [each.state["exp_avg_sq"] for each in moved],
        [],
        step,
        lr=rate,
        beta1=LazyAdam.BETA_1,
        beta2=LazyAdam.BETA_2,
        weight_decay=l2,
        eps=LazyAdam.EPSILON,
        amsgrad=False,
        maximize=False,
    )
