"""Networks as they are exported; DeepFM rearranged, the same function in a third of the operations.

With e_f = (w_f, v_f) a side's rows of the table laid end to end, one matrix product gives all
that the side brings: its part of the first hidden layer, its sum of embeddings S and its
first-order sum. The pairwise term of FM (Rendle 2010),

    sum_{i<j} <v_i, v_j> = 1/2 ||S||^2 - 1/2 sum_i ||v_i||^2,

needs nothing else: the last sum is one number for each row of the table and joins the row's
first-order weight. Only a list's mean is known too late for that; its square is taken off in
the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.layout import Layout
from model.networks.deepfm import DeepFM
from model.networks.network import Inputs, Network, mean_of_list


def serving_form(network: Network, layout: Layout) -> nn.Module:
    """Return a trained network's function for export, without batch norm."""
    return ServingDeepFM(network, layout) if isinstance(network, DeepFM) else network.folded()


class ServingDeepFM(nn.Module):
    """A trained DeepFM's function; inputs and output are those of ``DeepFM.forward``.

    A side's product has H + K + 1 columns: hidden pre-activation, S, first order.
    """

    table: Tensor
    context_weight: Tensor
    candidate_weight: Tensor
    bias: Tensor

    def __init__(self, network: DeepFM, layout: Layout) -> None:
        """Take the weights of ``network``, which is left as it is."""
        super().__init__()
        folded = network.folded()
        with torch.no_grad():
            table = folded.table.detach().clone()
            for slot in layout.context + layout.candidate:
                rows = table[slot.first : slot.first + slot.size]
                rows[:, 0] -= 0.5 * rows[:, 1:].square().sum(1)
            self.size = table.shape[1] - 1
            hidden = folded.mlp.first.out_features
            weight = folded.mlp.first.weight.detach()
            bias = torch.zeros(hidden + self.size + 1)
            bias[:hidden] = folded.mlp.first.bias
            bias[-1] = folded.bias
        self.hidden = hidden
        self.register_buffer("table", table)
        self.register_buffer("context_weight", self._widened(weight[:, : folded.mlp.split]))
        self.register_buffer("candidate_weight", self._widened(weight[:, folded.mlp.split :]))
        self.register_buffer("bias", bias)
        self.deeper, self.output = folded.mlp.deeper, folded.mlp.output

    def _widened(self, weight_HZ: Tensor) -> Tensor:
        """Give a side's first-layer weights the rows for S and the first-order sum."""
        hidden, size = weight_HZ.shape[0], self.size
        fields = weight_HZ.shape[1] // size
        weight_HFK = torch.zeros(hidden + size + 1, fields, 1 + size)
        weight_HFK[:hidden, :, 1:] = weight_HZ.reshape(hidden, fields, size)
        weight_HFK[hidden : hidden + size, :, 1:] = torch.eye(size).unsqueeze(1)
        weight_HFK[-1, :, 0] = 1
        return weight_HFK.flatten(1)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the logit float32 [N] of every row."""
        context_UC = self._side(
            inputs.context, inputs.context_lists, self.context_weight, self.bias
        )
        candidate_NC = self._side(
            inputs.candidate, inputs.candidate_lists, self.candidate_weight, None
        )
        both_NC = context_UC.index_select(0, inputs.row_context) + candidate_NC
        hidden_NH, total_NK, first_order_N1 = torch.split(
            both_NC, [self.hidden, self.size, 1], dim=1
        )
        hidden_NH = functional.relu(hidden_NH)
        for linear in self.deeper:
            hidden_NH = functional.relu(linear(hidden_NH))
        deep_N1: Tensor = self.output(hidden_NH)
        pairwise_N1 = 0.5 * total_NK.square().sum(1, keepdim=True)
        logit_N: Tensor = (deep_N1 + pairwise_N1 + first_order_N1).squeeze(1)
        return logit_N

    def _side(
        self,
        index_RF: Tensor,
        lists_RL: Sequence[Tensor],
        weight_CZ: Tensor,
        bias_C: Tensor | None,
    ) -> Tensor:
        """Return a side's columns [R, H + K + 1]."""
        rows_RZ = functional.embedding(index_RF, self.table).flatten(1)
        if not lists_RL:
            return functional.linear(rows_RZ, weight_CZ, bias_C)
        means_RK = [mean_of_list(self.table, index_RL) for index_RL in lists_RL]
        columns_RC = functional.linear(torch.cat([rows_RZ, *means_RK], 1), weight_CZ, bias_C)
        squares_R1 = 0.5 * torch.stack([mean[:, 1:] for mean in means_RK], 1).square().sum(
            (1, 2)
        ).unsqueeze(1)
        last = self.hidden + self.size
        return torch.cat([columns_RC[:, :last], columns_RC[:, last:] - squares_R1], 1)
