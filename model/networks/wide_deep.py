"""Wide & Deep (Cheng et al. 2016, arXiv:1606.07792)."""

from __future__ import annotations

from torch import Tensor

from app.layout import Layout
from model.config import TrainConfig
from model.networks.lr import first_order
from model.networks.mlp import Mlp
from model.networks.network import Network, field_counts, new_table


class WideDeep(Network):
    """logit = b + <w, x> + MLP(v_1, ..., v_F), trained jointly.

    The wide weights w and the embeddings v of the deep part are separate columns of the
    table; a row of it is (w, v). One optimiser trains both, where the paper has two.
    """

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        size = config.embedding_size
        super().__init__(new_table(layout, config, 1, size), base_rate)
        contexts, candidates = field_counts(layout)
        self.mlp = Mlp(size * contexts, size * candidates, config)

    def combine(self, context_UFC: Tensor, candidate_NFC: Tensor, row_context_N: Tensor) -> Tensor:
        context_UX, candidate_NX = (
            context_UFC[:, :, 1:].flatten(1),
            candidate_NFC[:, :, 1:].flatten(1),
        )
        wide_N = first_order(context_UFC, candidate_NFC, row_context_N)
        deep_N: Tensor = self.mlp(context_UX, candidate_NX, row_context_N)
        return self.bias + wide_N + deep_N
