"""FNN: an MLP over the table of a trained FM (Zhang, Du and Wang 2016, arXiv:1601.02376)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks.mlp import Mlp
from model.networks.network import Network, field_counts, new_table
from model.networks.rows import RowContext


class FNN(Network):
    """logit = W_out tanh(... tanh(W_1 z + c_1) ...) + b, z = (w_0, w_1, v_1, ..., w_F, v_F).

    The paper's form: z holds the global bias, the weights and the embeddings of an FM, which a
    warm start takes from a trained one; then everything is trained further. A row of the
    table is (w, v). Left out is the paper's optional pre-training of the hidden layers.
    """

    takes_dynamic = True

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        size = 1 + config.embedding_size
        super().__init__(new_table(layout, config, 1, config.embedding_size), base_rate)
        contexts, candidates = field_counts(layout)
        self.global_weight = nn.Parameter(torch.zeros(1))
        self.mlp = Mlp(1 + size * contexts, size * candidates, config, activation=torch.tanh)

    def combine(
        self,
        context_UFC: Tensor,
        candidate_NFC: Tensor,
        row_context_N: RowContext,
        dynamic_NFC: Tensor | None = None,
    ) -> Tensor:
        weight_U1 = self.global_weight.expand(context_UFC.shape[0], 1)
        context_UX = torch.cat([weight_U1, context_UFC.flatten(1)], 1)
        dynamic_NX = None if dynamic_NFC is None else dynamic_NFC.flatten(1)
        deep_N: Tensor = self.mlp(context_UX, candidate_NFC.flatten(1), row_context_N, dynamic_NX)
        return self.bias + deep_N
