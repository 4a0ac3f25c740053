"""DeepFM (Guo et al. 2017, arXiv:1703.04247)."""

from __future__ import annotations

from torch import Tensor

from app.layout import Layout
from model.config import TrainConfig
from model.networks.fm import pairwise
from model.networks.lr import first_order
from model.networks.mlp import Mlp
from model.networks.network import Network, field_counts, new_table, weights_and_vectors
from model.networks.rows import RowContext


class DeepFM(Network):
    """logit = b + <w, x> + sum_{i<j} <v_i, v_j> + MLP(v_1, ..., v_F), as in the paper.

    Both parts share the embeddings v; a row of the table is (w, v). What is exported is
    rearranged, see ``model.networks.serving``.
    """

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        """Start from small random embeddings, zero first-order weights and the base rate."""
        size = config.embedding_size
        super().__init__(new_table(layout, config, 1, size), base_rate)
        contexts, candidates = field_counts(layout)
        self.mlp = Mlp(size * contexts, size * candidates, config)

    def combine(
        self, context_UFC: Tensor, candidate_NFC: Tensor, row_context_N: RowContext
    ) -> Tensor:
        context_UF, context_UFK = weights_and_vectors(context_UFC)
        candidate_NF, candidate_NFK = weights_and_vectors(candidate_NFC)
        first_order_N = first_order(context_UF, candidate_NF, row_context_N)
        pairwise_N = pairwise(context_UFK, candidate_NFK, row_context_N)
        deep_N: Tensor = self.mlp(context_UFK.flatten(1), candidate_NFK.flatten(1), row_context_N)
        return self.bias + first_order_N + pairwise_N + deep_N
