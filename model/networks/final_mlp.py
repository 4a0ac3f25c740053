"""FinalMLP: two gated MLPs and their bilinear fusion (Mao et al. 2023, arXiv:2304.00902)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks.mlp import Mlp
from model.networks.network import Network, field_counts, new_table, sum_of_rest
from model.networks.rows import RowContext, of_rows

GATE_UNITS = 64
"""Hidden units of a gate."""


class FinalMLP(Network):
    """logit = b + <w_1, h_1> + <w_2, h_2> + sum_k h_1k^T W_k h_2k, h_s = MLP_s(g_s * x).

    x = (v_1, ..., v_F), and ``*`` is elementwise. The outputs of both streams are cut into
    ``fusion_heads`` parts h_sk, and each pair of parts has a matrix. A stream's gate is
    g_s = 2 sigmoid(U relu(V y_s + c) + d): y_1 are the context's fields, y_2 the candidate's (the
    paper leaves the choice of the fields to the user). Both streams have the hidden layers that
    the settings name. There is no first-order term; a row of the table is v.

    What the first stream makes of the context alone is computed once for it, gate included; what
    the second one makes of the candidate alone, once for an item.
    """

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        size = config.embedding_size
        super().__init__(new_table(layout, config, 0, size), base_rate)
        context, candidate = (size * fields for fields in field_counts(layout))
        self.gate = Gate(context, context + candidate)
        self.second_gate = Gate(candidate, context + candidate)
        self.mlp = Mlp(context, candidate, config)
        self.second = Mlp(0, candidate + context, config, beside=context)
        heads = config.fusion_heads
        part = config.hidden[-1] // heads
        self.fusion = nn.ModuleList(nn.Linear(part, part, bias=False) for _ in range(heads))
        for linear in self.fusion:
            assert isinstance(linear, nn.Linear)
            # Xavier's variance for one output of all products. That of a matrix by itself is larger
            # by ``part`` and more, and gives the first steps logits that are far too large.
            nn.init.normal_(linear.weight, std=(2 / (heads * part * part + 1)) ** 0.5)

    def combine(
        self,
        context_UFC: Tensor,
        candidate_NFC: Tensor,
        row_context_N: RowContext,
        dynamic_NFC: Tensor | None = None,
    ) -> Tensor:
        context_UX, candidate_NX = context_UFC.flatten(1), candidate_NFC.flatten(1)
        sizes = [context_UX.shape[1], candidate_NX.shape[1]]
        ours_UX, theirs_UX = torch.split(self.gate(context_UX), sizes, dim=1)
        first_NH = self.mlp.hidden(
            ours_UX * context_UX, of_rows(theirs_UX, row_context_N) * candidate_NX, row_context_N
        )
        ours_NX, theirs_NX = torch.split(self.second_gate(candidate_NX), sizes, dim=1)
        second_NH = self.second.hidden(
            None,
            theirs_NX * candidate_NX,
            row_context_N,
            ours_NX * of_rows(context_UX, row_context_N),
        )
        streams_N1: Tensor = self.mlp.output(first_NH) + self.second.output(second_NH)
        return self.bias + streams_N1.squeeze(1) + self._fused(first_NH, second_NH)

    def _fused(self, first_NH: Tensor, second_NH: Tensor) -> Tensor:
        """Return sum_k h_1k^T W_k h_2k [N]."""
        part = first_NH.shape[1] // len(self.fusion)
        turned_NH = torch.cat(
            [
                linear(part_NH)
                for linear, part_NH in zip(
                    self.fusion, torch.split(first_NH, part, dim=1), strict=True
                )
            ],
            1,
        )
        return sum_of_rest(turned_NH * second_NH)


class Gate(nn.Module):
    """Factors [R, X] between 0 and 2 for the inputs of a stream, which one side's fields decide."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, GATE_UNITS)
        self.second = nn.Linear(GATE_UNITS, outputs)
        for linear in (self.first, self.second):
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, value_RX: Tensor) -> Tensor:
        """Return 2 sigmoid(U relu(V y + c) + d)."""
        hidden_RH = functional.relu(self.first(value_RX))
        return 2 * torch.sigmoid(self.second(hidden_RH))
