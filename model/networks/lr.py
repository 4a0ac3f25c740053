"""Logistic regression over one-hot fields."""

from __future__ import annotations

from torch import Tensor

from app.layout import Layout
from model.config import TrainConfig
from model.networks.network import Network, new_table, sum_of_rest


class LR(Network):
    """logit = b + <w, x>: every feature has one weight, and nothing interacts."""

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        super().__init__(new_table(layout, config, weights=1, size=0), base_rate)

    def combine(self, context_UFC: Tensor, candidate_NFC: Tensor, row_context_N: Tensor) -> Tensor:
        return self.bias + first_order(context_UFC, candidate_NFC, row_context_N)


def first_order(context_UFC: Tensor, candidate_NFC: Tensor, row_context_N: Tensor) -> Tensor:
    """Return <w, x> [N]; a field's weight w is column 0 of its row."""
    context_U, candidate_N = sum_of_rest(context_UFC[:, :, 0]), sum_of_rest(candidate_NFC[:, :, 0])
    return context_U.index_select(0, row_context_N) + candidate_N
