"""Field-aware factorisation machine (Juan et al. 2016, doi:10.1145/2959100.2959134)."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks.lr import first_order
from model.networks.network import (
    Network,
    field_counts,
    new_table,
    sum_of_rest,
    weights_and_vectors,
)
from model.networks.rows import RowContext, of_rows


class FFM(Network):
    """logit = b + <w, x> + sum_{i<j} <v_{i,j}, v_{j,i}>, v_{i,j} being i's vector toward j.

    The paper's interaction; its library has neither bias nor first-order term, the form here
    has both, as FM has. A row of the table is (w, v_{i,j} for every other field j, the
    context's first), so a field never meets itself: a list is pooled before it interacts.
    """

    context_places: Tensor
    candidate_places: Tensor

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        contexts, candidates = field_counts(layout)
        others = contexts + candidates - 1
        super().__init__(new_table(layout, config, 1, others * config.embedding_size), base_rate)
        self.shape = (others, config.embedding_size)
        self.register_buffer("context_places", _places(contexts), persistent=False)
        self.register_buffer("candidate_places", _places(candidates), persistent=False)

    def combine(
        self,
        context_UFC: Tensor,
        candidate_NFC: Tensor,
        row_context_N: RowContext,
        dynamic_NFC: Tensor | None = None,
    ) -> Tensor:
        assert dynamic_NFC is None
        contexts = context_UFC.shape[1]
        context_UF, context_UFX = weights_and_vectors(context_UFC)
        candidate_NF, candidate_NFX = weights_and_vectors(candidate_NFC)
        # [.., i, j] is field i's vector toward its j-th other field.
        context_UFOK = context_UFX.reshape(*context_UFC.shape[:2], *self.shape)
        candidate_NFOK = candidate_NFX.reshape(*candidate_NFC.shape[:2], *self.shape)
        within_U = within(context_UFOK[:, :, : contexts - 1], self.context_places)
        within_N = within(candidate_NFOK[:, :, contexts:], self.candidate_places)
        toward_candidate_UFFK = context_UFOK[:, :, contexts - 1 :]
        toward_context_NFFK = candidate_NFOK[:, :, :contexts].transpose(1, 2)
        across_NFFK = of_rows(toward_candidate_UFFK, row_context_N) * toward_context_NFFK
        first_order_N = first_order(context_UF, candidate_NF, row_context_N)
        pairwise_N = of_rows(within_U, row_context_N) + within_N + sum_of_rest(across_NFFK)
        return self.bias + first_order_N + pairwise_N


def _places(fields: int) -> Tensor:
    """Return where [F * (F - 1)] vectors hold, for pairs i < j, i's toward j and j's toward i."""
    pairs = list(combinations(range(fields), 2))
    toward_right = [left * (fields - 1) + right - 1 for left, right in pairs]
    toward_left = [right * (fields - 1) + left for left, right in pairs]
    return torch.tensor([toward_right, toward_left], dtype=torch.int64)


def within(vectors_RFOK: Tensor, places: Tensor) -> Tensor:
    """Return sum_{i<j} <v_{i,j}, v_{j,i}> [R] over the fields of one side."""
    if not places.shape[1]:
        # onnxruntime takes no reshaping to pairs of which there are none.
        return vectors_RFOK.new_zeros(vectors_RFOK.shape[0])
    vectors_RPK = vectors_RFOK.flatten(1, 2)
    product_RPK = vectors_RPK.index_select(1, places[0]) * vectors_RPK.index_select(1, places[1])
    return sum_of_rest(product_RPK)
