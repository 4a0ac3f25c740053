"""Adam for the table of embeddings: a step reads and writes only the rows that its batch names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class LazyAdam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) that only ever touches the rows named.

    The moments of a row stand still while no batch names it, as in TensorFlow's LazyAdam and
    torch's SparseAdam; ``row_l2`` [T] adds row_l2 * value to a row's gradient.
    """

    BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
    exchanges = False
    """Gradients of gathered rows are those of all processes before :meth:`step`."""

    def __init__(self, table_TC: Tensor, row_l2: Tensor | None) -> None:
        self._table_TC = table_TC
        self._row_l2 = row_l2
        self._mean_TC = torch.zeros_like(table_TC)
        self._square_TC = torch.zeros_like(table_TC)
        self._steps = 0

    def state(self) -> dict[str, Tensor]:
        """Return the moments [T, C] by name."""
        return {"mean": self._mean_TC, "square": self._square_TC}

    def restore(self, moments: Mapping[str, Tensor], steps: int) -> None:
        """Take over the moments after so many steps."""
        self._mean_TC.copy_(moments["mean"])
        self._square_TC.copy_(moments["square"])
        self._steps = steps

    def gather(self, row_P: Tensor) -> Tensor:
        """Return the rows [P, C] as a leaf that collects its gradient."""
        return self._table_TC.index_select(0, row_P).requires_grad_()

    def step(self, row_P: Tensor, value_PC: Tensor, rate: float) -> None:
        """Move the gathered rows against their gradient, padding (the first of them) excepted."""
        gradient_PC = value_PC.grad
        assert gradient_PC is not None
        self.move(row_P[1:], value_PC[1:], gradient_PC[1:], rate)

    @torch.no_grad()
    def move(self, row_P: Tensor, value_PC: Tensor, gradient_PC: Tensor, rate: float) -> None:
        """Take a step with distinct rows [P], their values and their gradients [P, C]."""
        self._steps += 1
        if self._row_l2 is not None:
            gradient_PC.addcmul_(value_PC, self._row_l2.index_select(0, row_P).unsqueeze(1))
        mean_PC = self._mean_TC.index_select(0, row_P).lerp_(gradient_PC, 1 - self.BETA_1)
        square_PC = self._square_TC.index_select(0, row_P).mul_(self.BETA_2)
        square_PC.addcmul_(gradient_PC, gradient_PC, value=1 - self.BETA_2)
        self._mean_TC.index_copy_(0, row_P, mean_PC)
        self._square_TC.index_copy_(0, row_P, square_PC)

        size = rate / (1 - self.BETA_1**self._steps)
        square_PC.div_(1 - self.BETA_2**self._steps).sqrt_().add_(self.EPSILON)
        self._table_TC.index_copy_(0, row_P, value_PC.addcdiv(mean_PC, square_PC, value=-size))
