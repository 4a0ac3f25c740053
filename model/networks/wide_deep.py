"""Wide & Deep (Cheng et al. 2016, arXiv:1606.07792)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks.crosses import CrossTerm, CrossWeights
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


class WideDeep(Network):
    """logit = b + <w, x> + sum_{(i,j)} c_ij + MLP(v_1, ..., v_F), trained jointly.

    The wide weights w and the embeddings v of the deep part are separate columns of the
    table; a row of it is (w, v). c_ij is the weight of a pair of values of two fields that
    the spec crosses; the other networks have none. One optimiser trains all, where the paper
    has two.
    """

    takes_dynamic = True

    def __init__(
        self,
        layout: Layout,
        config: TrainConfig,
        base_rate: float = 0.5,
        crosses: Sequence[CrossWeights] = (),
    ) -> None:
        size = config.embedding_size
        super().__init__(new_table(layout, config, 1, size), base_rate)
        contexts, candidates = field_counts(layout)
        self.mlp = Mlp(size * contexts, size * candidates, config)
        self.crosses = nn.ModuleList(CrossTerm(cross) for cross in crosses)

    def cross_parameters(self) -> Iterator[nn.Parameter]:
        return self.crosses.parameters()

    def logit(self, table_TC: Tensor, place: NetworkInputs, inputs: NetworkInputs) -> Tensor:
        logit_N = super().logit(table_TC, place, inputs)
        for cross in self.crosses:
            logit_N = logit_N + cross(inputs)
        return logit_N

    def combine(
        self,
        context_UFC: Tensor,
        candidate_NFC: Tensor,
        row_context_N: RowContext,
        dynamic_NFC: Tensor | None = None,
    ) -> Tensor:
        context_UF, context_UFK = weights_and_vectors(context_UFC)
        candidate_NF, candidate_NFK = weights_and_vectors(candidate_NFC)
        dynamic_NF = dynamic_NX = None
        if dynamic_NFC is not None:
            dynamic_NF, dynamic_NFK = weights_and_vectors(dynamic_NFC)
            dynamic_NX = dynamic_NFK.flatten(1)
        wide_N = first_order(context_UF, candidate_NF, row_context_N, dynamic_NF)
        deep_N: Tensor = self.mlp(
            context_UFK.flatten(1), candidate_NFK.flatten(1), row_context_N, dynamic_NX
        )
        return self.bias + wide_N + deep_N

    def deep(self, context_NFC: Tensor, candidate_NFC: Tensor) -> Tensor:
        vectors = (weights_and_vectors(each)[1].flatten(1) for each in (context_NFC, candidate_NFC))
        deep_N: Tensor = self.mlp(*vectors, None)
        return deep_N
