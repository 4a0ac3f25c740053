"""Factorisation machine (Rendle 2010, "Factorization Machines")."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks.lr import first_order
from model.networks.network import (
    Network,
    new_table,
    sum_of_fields,
    sum_of_rest,
    weights_and_vectors,
)
from model.networks.rows import RowContext, of_rows


class FM(Network):
    """logit = b + <w, x> + sum_{i<j} <v_i, v_j>: the paper's second-order machine.

    A row of the table is (w, v).
    """

    takes_dynamic = True

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        super().__init__(new_table(layout, config, 1, config.embedding_size), base_rate)

    def combine(
        self,
        context_UFC: Tensor,
        candidate_NFC: Tensor,
        row_context_N: RowContext,
        dynamic_NFC: Tensor | None = None,
    ) -> Tensor:
        context_UF, context_UFK = weights_and_vectors(context_UFC)
        candidate_NF, candidate_NFK = weights_and_vectors(candidate_NFC)
        dynamic_NF = dynamic_NFK = None
        if dynamic_NFC is not None:
            dynamic_NF, dynamic_NFK = weights_and_vectors(dynamic_NFC)
        first_order_N = first_order(context_UF, candidate_NF, row_context_N, dynamic_NF)
        pairwise_N = pairwise(context_UFK, candidate_NFK, row_context_N, dynamic_NFK)
        return self.bias + first_order_N + pairwise_N


def pairwise(
    context_UFK: Tensor,
    candidate_NFK: Tensor,
    row_context_N: RowContext,
    dynamic_NFK: Tensor | None = None,
) -> Tensor:
    """Return sum_{i<j} <v_i, v_j> [N] over the fields of both sides, dynamic ones too.

    Pairs within the context are summed once for each context; those across are one product
    of the sides' sums, sum_{i in U, j in I} <v_i, v_j> = <S_U, S_I>. Dynamic fields add their own
    pairs and <S_U + S_I, S_D>.
    """
    context_UK, candidate_NK = sum_of_fields(context_UFK), sum_of_fields(candidate_NFK)
    context_NK = of_rows(context_UK, row_context_N)
    pairwise_N = (
        of_rows(_within(context_UFK, context_UK), row_context_N)
        + _within(candidate_NFK, candidate_NK)
        + sum_of_rest(context_NK * candidate_NK)
    )
    if dynamic_NFK is None:
        return pairwise_N
    dynamic_NK = sum_of_fields(dynamic_NFK)
    across_N = sum_of_rest((context_NK + candidate_NK) * dynamic_NK)
    return pairwise_N + _within(dynamic_NFK, dynamic_NK) + across_N


def _within(fields_RFK: Tensor, total_RK: Tensor) -> Tensor:
    """Return the pairs within a side [R]: 1/2 (||sum_i v_i||^2 - sum_i ||v_i||^2)."""
    return 0.5 * (sum_of_rest(total_RK.square()) - sum_of_rest(fields_RFK.square()))


class _Pairs(Function):
    """The pairwise term of one side, whose gradient of v_i is S - v_i, S being the sum."""

    @staticmethod
    def forward(context: Any, fields_RFK: Tensor) -> Tensor:
        total_RK = fields_RFK.sum(1)
        context.save_for_backward(fields_RFK, total_RK)
        vector_RX = fields_RFK.flatten(1)
        squares_R = torch.linalg.vecdot(vector_RX, vector_RX)
        pairs_R: Tensor = 0.5 * (total_RK.square().sum(1) - squares_R)
        return pairs_R

    @staticmethod
    def backward(context: Any, gradient_R: Tensor) -> Tensor:
        fields_RFK, total_RK = context.saved_tensors
        difference_RFK: Tensor = total_RK.unsqueeze(1) - fields_RFK
        return difference_RFK.mul_(gradient_R.view(-1, 1, 1))


def pairs_within(fields_RFK: Tensor) -> Tensor:
    """Return sum_{i<j} <v_i, v_j> [R] over the fields of whole rows, as training sums it."""
    sum_R: Tensor = _Pairs.apply(fields_RFK)  # type: ignore[no-untyped-call]
    return sum_R
