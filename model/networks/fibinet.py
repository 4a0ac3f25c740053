"""FiBiNET: weighted fields and bilinear products (Huang, Zhang, Zhang 2019, arXiv:1905.09433)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks.lr import first_order
from model.networks.mlp import Mlp
from model.networks.network import (
    Network,
    field_counts,
    new_table,
    sum_of_last,
    weights_and_vectors,
)
from model.networks.products import pairs, turned
from model.networks.rows import RowContext, of_rows

REDUCTION = 3
"""Fields for each hidden unit of the network that weighs fields; the paper's ratio."""


class FiBiNET(Network):
    """logit = b + <w, x> + MLP(p, q), p_ij = (v_i^T Q_ij) * v_j and q_ij = a_i a_j p_ij, i < j.

    ``*`` is elementwise. The weights a = relu(W_2 relu(W_1 z)) of fields (the paper's SENET) come
    of the means z_i of the vectors v_i. q are the bilinear products of the weighted vectors
    a_i v_i, by the same kernels Q_ij, of which each pair has its own (the paper's
    "field-interaction" type). A row of the table is (w, v).

    Products within the context are computed once for it, and so is their part of the first hidden
    layer; q depends on both sides.
    """

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        size = config.embedding_size
        super().__init__(new_table(layout, config, 1, size), base_rate)
        contexts, candidates = field_counts(layout)
        self.weigh = FieldWeights(contexts, candidates)
        self.products = BilinearProducts(contexts, candidates, size)
        context, candidate, across = (size * count for count in self.products.counts)
        both = across + context + candidate + across
        # Without pairs within the candidate, nothing of the rows is the candidate's alone.
        self.mlp = Mlp(context, candidate + both, config, beside=both if candidate else 0)

    def combine(
        self,
        context_UFC: Tensor,
        candidate_NFC: Tensor,
        row_context_N: RowContext,
        dynamic_NFC: Tensor | None = None,
    ) -> Tensor:
        context_UF, context_UFK = weights_and_vectors(context_UFC)
        candidate_NF, candidate_NFK = weights_and_vectors(candidate_NFC)
        weight_NF = self.weigh(context_UFK, candidate_NFK, row_context_N)
        context_UPK, candidate_NPK, across_NPK = self.products(
            context_UFK, candidate_NFK, row_context_N
        )
        product_NPK = torch.cat([of_rows(context_UPK, row_context_N), candidate_NPK, across_NPK], 1)
        weighted_NPK = product_NPK * self.products.of_pairs(weight_NF).unsqueeze(2)
        both_NX = torch.cat([across_NPK, weighted_NPK], 1).flatten(1)
        context, candidate, _ = self.products.counts
        deep_N: Tensor = self.mlp(
            context_UPK.flatten(1) if context else None,
            candidate_NPK.flatten(1) if candidate else both_NX,
            row_context_N,
            both_NX if candidate else None,
        )
        return self.bias + first_order(context_UF, candidate_NF, row_context_N) + deep_N


class FieldWeights(nn.Module):
    """A weight [N, F] for each field of a row, the context's first, that all its fields decide."""

    def __init__(self, contexts: int, candidates: int) -> None:
        super().__init__()
        fields = contexts + candidates
        hidden = max(1, fields // REDUCTION)
        self.context = nn.Linear(contexts, hidden, bias=False)
        self.candidate = nn.Linear(candidates, hidden, bias=False)
        self.output = nn.Linear(hidden, fields, bias=False)
        # Xavier's variance for both halves of the first product as one.
        for half in (self.context, self.candidate):
            nn.init.normal_(half.weight, std=(2 / (fields + hidden)) ** 0.5)
        nn.init.xavier_normal_(self.output.weight)

    def forward(
        self, context_UFK: Tensor, candidate_NFK: Tensor, row_context_N: RowContext
    ) -> Tensor:
        size = candidate_NFK.shape[2]
        context_UH = self.context(sum_of_last(context_UFK) / size)
        candidate_NH = self.candidate(sum_of_last(candidate_NFK) / size)
        hidden_NH = functional.relu(of_rows(context_UH, row_context_N) + candidate_NH)
        weight_NF: Tensor = functional.relu(self.output(hidden_NH))
        return weight_NF


class BilinearProducts(nn.Module):
    """(v_i^T Q_ij) * v_j for each pair i < j, with a K x K kernel Q_ij for each.

    Pairs within the context come first, then those within the candidate, then those across; the
    numbers of each are ``counts``. Kernels stand side by side as those of ``KernelProducts``.
    """

    context_right: Tensor
    candidate_right: Tensor
    left: Tensor
    right: Tensor

    def __init__(self, contexts: int, candidates: int, size: int) -> None:
        super().__init__()
        context, candidate = pairs(contexts), pairs(candidates)
        across = torch.cartesian_prod(torch.arange(contexts), torch.arange(candidates))
        across = across.reshape(-1, 2).T + torch.tensor([[0], [contexts]])
        self.counts = (context.shape[1], candidate.shape[1], across.shape[1])
        self.register_buffer("context_right", context[1], persistent=False)
        self.register_buffer("candidate_right", candidate[1], persistent=False)
        every = torch.cat([context, candidate + contexts, across], 1)
        self.register_buffer("left", every[0], persistent=False)
        self.register_buffer("right", every[1], persistent=False)
        std = size**-0.5
        self.context_kernel = nn.Parameter(torch.randn(size, self.counts[0] * size) * std)
        self.candidate_kernel = nn.Parameter(torch.randn(size, self.counts[1] * size) * std)
        self.across_kernel = nn.Parameter(torch.randn(size, self.counts[2] * size) * std)

    def forward(
        self, context_UFK: Tensor, candidate_NFK: Tensor, row_context_N: RowContext
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the products within the context [U, P, K], and [N, P, K] of the other two."""
        contexts, candidates = context_UFK.shape[1], candidate_NFK.shape[1]
        context_UPK = turned(context_UFK, self.context_kernel, range(contexts - 1, 0, -1))
        candidate_NPK = turned(candidate_NFK, self.candidate_kernel, range(candidates - 1, 0, -1))
        across_UPK = turned(context_UFK, self.across_kernel, contexts * [candidates])
        return (
            context_UPK * context_UFK.index_select(1, self.context_right),
            candidate_NPK * candidate_NFK.index_select(1, self.candidate_right),
            of_rows(across_UPK, row_context_N) * candidate_NFK.repeat(1, contexts, 1),
        )

    def of_pairs(self, value_NF: Tensor) -> Tensor:
        """Return the product [N, P] of both fields' values for each pair."""
        return value_NF.index_select(1, self.left) * value_NF.index_select(1, self.right)
