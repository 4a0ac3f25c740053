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
from model.networks.products import BilinearProducts
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
        contexts, candidates = self.sides = field_counts(layout)
        self.weigh = FieldWeights(contexts, candidates)
        self.products = BilinearProducts(contexts, candidates, size)
        within, rows = self.products.context_outputs, self.products.row_outputs
        across, every = contexts * candidates, within + rows
        # Without pairs within the candidate, nothing of the rows is the candidate's alone.
        beside = across + every if rows > across else 0
        self.mlp = Mlp(size * within, size * (rows + every), config, beside=size * beside)

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
        context_UPK, candidate_NPK, across_NPK = self.products.vectors(
            context_UFK, candidate_NFK, row_context_N
        )
        product_NPK = torch.cat([of_rows(context_UPK, row_context_N), candidate_NPK, across_NPK], 1)
        weighted_NPK = product_NPK * self._of_pairs(weight_NF).unsqueeze(2)
        both_NX = torch.cat([across_NPK, weighted_NPK], 1).flatten(1)
        own = candidate_NPK.shape[1] > 0
        deep_N: Tensor = self.mlp(
            context_UPK.flatten(1) if context_UPK.shape[1] else None,
            candidate_NPK.flatten(1) if own else both_NX,
            row_context_N,
            both_NX if own else None,
        )
        return self.bias + first_order(context_UF, candidate_NF, row_context_N) + deep_N

    def _of_pairs(self, weight_NF: Tensor) -> Tensor:
        """Return the product [N, P] of both fields' weights, in the order of the products."""
        products = self.products
        ours_NF, theirs_NF = torch.split(weight_NF, list(self.sides), dim=1)
        across_NFF = ours_NF.unsqueeze(2) * theirs_NF.unsqueeze(1)
        return torch.cat(
            [
                ours_NF.index_select(1, products.context_left)
                * ours_NF.index_select(1, products.context_right),
                theirs_NF.index_select(1, products.candidate_left)
                * theirs_NF.index_select(1, products.candidate_right),
                across_NFF.flatten(1),
            ],
            1,
        )


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
