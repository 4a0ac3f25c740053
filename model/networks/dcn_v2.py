"""DCN v2: cross layers over whole rows, and an MLP (Wang et al. 2021, arXiv:2008.13535)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks.mlp import Mlp
from model.networks.network import Network, field_counts, new_table
from model.networks.rows import RowContext, of_rows


class DCNv2(Network):
    """logit = b + <w, x_L> + MLP(x_0), x_{l+1} = x_0 * (W_l x_l + c_l) + x_l for l < L.

    x_0 = (v_1, ..., v_F) has D numbers, ``*`` is elementwise, L is ``cross_layers``. With
    ``cross_rank`` r above zero W_l = A_l B_l^T, both [D, r]; the paper's mixture of several such
    products is left out. The form above is the paper's parallel structure; with ``cross_stacked``
    it is the stacked one, logit = b + MLP(x_L). There is no first-order term; a row of the table
    is v.

    W_0 x_0 is a part of the context and a part of the candidate, as is the MLP's first layer in
    the parallel structure, so what a context gives to them is computed once.
    """

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        """Start from normal cross weights of variance 1/D, as Xavier's are, and zero biases."""
        size = config.embedding_size
        super().__init__(new_table(layout, config, 0, size), base_rate)
        context, candidate = (size * fields for fields in field_counts(layout))
        self.first = FirstCross(context, candidate, config.cross_rank)
        self.deeper = nn.ModuleList(
            Cross(context + candidate, config.cross_rank) for _ in range(config.cross_layers - 1)
        )
        if config.cross_stacked:
            self.output = None
            self.mlp = Mlp(0, context + candidate, config)
        else:
            self.output = nn.Linear(context + candidate, 1, bias=False)
            nn.init.xavier_normal_(self.output.weight)
            self.mlp = Mlp(context, candidate, config)

    def combine(
        self,
        context_UFC: Tensor,
        candidate_NFC: Tensor,
        row_context_N: RowContext,
        dynamic_NFC: Tensor | None = None,
    ) -> Tensor:
        context_UX, candidate_NX = context_UFC.flatten(1), candidate_NFC.flatten(1)
        fields_NX = torch.cat([of_rows(context_UX, row_context_N), candidate_NX], 1)
        crossed_NX = fields_NX * self.first(context_UX, candidate_NX, row_context_N) + fields_NX
        for cross in self.deeper:
            crossed_NX = fields_NX * cross(crossed_NX) + crossed_NX
        if self.output is None:
            stacked_N: Tensor = self.mlp.whole(crossed_NX)
            return self.bias + stacked_N
        crossed_N1: Tensor = self.output(crossed_NX)
        deep_N: Tensor = self.mlp(context_UX, candidate_NX, row_context_N)
        return self.bias + crossed_N1.squeeze(1) + deep_N


class Cross(nn.Module):
    """W x + c [N, D] of a cross layer, W being of full or of low rank."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.narrow = _linear(width, rank, width, bias=False) if rank else nn.Identity()
        self.linear = _linear(rank or width, width, width)

    def forward(self, crossed_NX: Tensor) -> Tensor:
        product_NX: Tensor = self.linear(self.narrow(crossed_NX))
        return product_NX


class FirstCross(nn.Module):
    """W x + c [N, D] of the first cross layer, whose x are both sides' fields."""

    def __init__(self, context: int, candidate: int, rank: int) -> None:
        super().__init__()
        width = context + candidate
        self.context = _linear(context, rank or width, width, bias=not rank)
        self.candidate = _linear(candidate, rank or width, width, bias=False)
        self.widen = _linear(rank, width, width) if rank else nn.Identity()

    def forward(
        self, context_UX: Tensor, candidate_NX: Tensor, row_context_N: RowContext
    ) -> Tensor:
        context_UR: Tensor = self.context(context_UX)
        product_NX: Tensor = self.widen(
            of_rows(context_UR, row_context_N) + self.candidate(candidate_NX)
        )
        return product_NX


def _linear(inputs: int, outputs: int, width: int, bias: bool = True) -> nn.Linear:
    """Return a product with normal weights of variance 1 / ``width`` and zero biases."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(linear.weight, std=width**-0.5)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear
