"""A module that calls one function of torch, to see what the exporter makes of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from app.features.graph_inputs import CONTEXTS, ROWS, GraphInput

INPUTS = (
    GraphInput("context", (CONTEXTS, 3), "float32"),
    GraphInput("candidate", (ROWS, 2, 3), "float32"),
    GraphInput("row_context", (ROWS,)),
    GraphInput("list", (ROWS, "places")),
    GraphInput("other_list", (ROWS, "other_places")),
)
Function = Callable[["Calls", Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class Calls(nn.Module):
    """A module that calls one function."""

    kernel: Tensor
    places: Tensor

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        torch.manual_seed(3)
        self.layer = nn.Linear(3, 4)
        self.table = nn.Parameter(torch.randn(9, 2))
        self.register_buffer("kernel", torch.randn(3, 6))
        self.register_buffer("places", torch.tensor([2, 0, 1]))

    def forward(
        self, context: Tensor, candidate: Tensor, row_context: Tensor, others: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        found = self.function(self, context, candidate, row_context, *others)
        return found, torch.neg(found)
