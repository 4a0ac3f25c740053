"""Logistic regression over one-hot fields."""

from __future__ import annotations

from torch import Tensor

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks.network import Network, new_table, sum_of_rest
from model.networks.rows import RowContext, of_rows


class LR(Network):
    """logit = b + <w, x>: every feature has one weight, and nothing interacts."""

    takes_dynamic = True

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        super().__init__(new_table(layout, config, weights=1, size=0), base_rate)

    def combine(
        self,
        context_UFC: Tensor,
        candidate_NFC: Tensor,
        row_context_N: RowContext,
        dynamic_NFC: Tensor | None = None,
    ) -> Tensor:
        return self.bias + first_order(
            context_UFC.squeeze(2),
            candidate_NFC.squeeze(2),
            row_context_N,
            None if dynamic_NFC is None else dynamic_NFC.squeeze(2),
        )


def first_order(
    context_UF: Tensor,
    candidate_NF: Tensor,
    row_context_N: RowContext,
    dynamic_NF: Tensor | None = None,
) -> Tensor:
    """Return <w, x> [N], from the weights w of both sides' fields, dynamic ones too."""
    sum_N = of_rows(sum_of_rest(context_UF), row_context_N) + sum_of_rest(candidate_NF)
    return sum_N if dynamic_NF is None else sum_N + sum_of_rest(dynamic_NF)
