"""DeepFM (Guo et al. 2017, arXiv:1703.04247)."""

from __future__ import annotations

import torch
from torch import Tensor

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks.fm import pairs_within, pairwise
from model.networks.lr import first_order
from model.networks.mlp import Mlp
from model.networks.network import (
    Network,
    NetworkInputs,
    field_counts,
    new_table,
    weights_and_vectors,
)
from model.networks.rows import RowContext


class DeepFM(Network):
    """logit = b + <w, x> + sum_{i<j} <v_i, v_j> + MLP(v_1, ..., v_F), as in the paper.

    Both parts share the embeddings v; a row of the table is (w, v). What is exported is
    rearranged, see ``model.export.serving_form``.
    """

    takes_dynamic = True

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        """Start from small random embeddings, zero first-order weights and the base rate."""
        size = config.embedding_size
        super().__init__(new_table(layout, config, 1, size), base_rate)
        contexts, candidates = field_counts(layout)
        self.mlp = Mlp(size * contexts, size * candidates, config)

    def logit(self, table_TC: Tensor, place: NetworkInputs, inputs: NetworkInputs) -> Tensor:
        beside = (
            *place.context_lists,
            *place.candidate_lists,
            place.row_context,
            place.context_value,
            place.candidate_value,
        )
        if self.training and all(each is None for each in beside):
            return self._whole(table_TC, torch.cat([place.context, place.candidate], 1))
        return super().logit(table_TC, place, inputs)

    def _whole(self, table_TC: Tensor, index_NF: Tensor) -> Tensor:
        """Return the logit [N] of rows of single values, nothing of which is shared.

        The same sums over whole rows: the weights and the embeddings are looked up apart, so that
        no gradient is cut out of or put into wider rows: a step in bfloat16 takes an eighth less
        time.
        """
        weight_T1, vector_TK = torch.split(table_TC, [1, table_TC.shape[1] - 1], dim=1)
        index = index_NF.flatten()
        weight_NF = weight_T1.contiguous().view(-1).index_select(0, index).view(index_NF.shape)
        vector_NFK = vector_TK.contiguous().index_select(0, index)
        vector_NFK = vector_NFK.view(*index_NF.shape, vector_TK.shape[1])
        deep_N: Tensor = self.mlp.whole(vector_NFK.flatten(1))
        return self.bias + weight_NF.sum(1) + pairs_within(vector_NFK) + deep_N

    def combine(
        self,
        context_UFC: Tensor,
        candidate_NFC: Tensor,
        row_context_N: RowContext,
        dynamic_NFC: Tensor | None = None,
    ) -> Tensor:
        # In the graph it has another form, which takes them.
        assert dynamic_NFC is None
        context_UF, context_UFK = weights_and_vectors(context_UFC)
        candidate_NF, candidate_NFK = weights_and_vectors(candidate_NFC)
        first_order_N = first_order(context_UF, candidate_NF, row_context_N)
        pairwise_N = pairwise(context_UFK, candidate_NFK, row_context_N)
        deep_N: Tensor = self.mlp(context_UFK.flatten(1), candidate_NFK.flatten(1), row_context_N)
        return self.bias + first_order_N + pairwise_N + deep_N

    def deep(self, context_NFC: Tensor, candidate_NFC: Tensor) -> Tensor:
        vectors = (weights_and_vectors(each)[1].flatten(1) for each in (context_NFC, candidate_NFC))
        deep_N: Tensor = self.mlp(*vectors, None)
        return deep_N
