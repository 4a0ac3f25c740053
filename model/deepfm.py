"""DeepFM (Guo et al. 2017, arXiv:1703.04247), factored over context and candidate.

    logit = b + <w, x> + sum_{i<j} <v_i, v_j> + MLP(e)

Letters that end a tensor's name are its axes: U contexts, N rows (candidates to score),
F fields of one side, L list length, K embedding size, H hidden units, T table rows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.layout import PADDING, Layout
from model.config import TrainConfig


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014) whose masks are single random bytes.

    The rate is rounded to a multiple of 1/256, and the survivors are scaled for exactly that
    rate. About five times as fast as torch's on a CPU, which draws one float per element.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropped = round(rate * 256)

    def forward(self, value: Tensor) -> Tensor:
        if not self.training or self.dropped == 0:
            return value
        words = torch.empty(-(-value.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        byte = words.view(torch.uint8)[: value.numel()].view(value.shape)
        kept = (byte >= self.dropped).to(value.dtype)
        return value * kept.mul_(256 / (256 - self.dropped))


class Side(NamedTuple):
    """What one side, context or candidate, brings to the logit, for R rows of its own."""

    first_order: Tensor
    """[R], the fields' weights summed."""
    total: Tensor
    """[R, K], the fields' embeddings summed."""
    pairwise: Tensor
    """[R], the FM term of the pairs within this side."""
    embedding: Tensor
    """[R, F * K], the fields' embeddings side by side."""


class DeepFM(nn.Module):
    """Click logit from a first-order, a factorisation-machine and a deep part.

    ``table`` [T, 1 + K] holds for every index its first-order weight (column 0) and its
    embedding; row 0 is padding and zero. The fields of a side are its single-valued slots and
    then its lists, a list counting as the mean of its values, zero if it has none.
    """

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        """Start from small random embeddings, zero first-order weights and the base rate."""
        super().__init__()
        size = config.embedding_size
        self.split = size * (len(layout.context) + len(layout.context_lists))
        """How many of the first layer's inputs are the context's."""
        sizes = (size * len(layout.slots), *config.hidden)

        table = torch.zeros(layout.table_rows, 1 + size)
        table[1 + PADDING :, 1:].normal_(std=config.init_std)
        self.table = nn.Parameter(table)
        self.bias = nn.Parameter(torch.tensor(math.log(base_rate) - math.log1p(-base_rate)))
        linears = [nn.Linear(width, hidden) for width, hidden in pairwise(sizes)]
        self.first, self.deeper = linears[0], nn.ModuleList(linears[1:])
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(hidden) if config.batch_norm else nn.Identity()
            for hidden in config.hidden
        )
        self.dropout = Dropout(config.dropout)
        self.output = nn.Linear(sizes[-1], 1, bias=False)
        for linear in (*linears, self.output):
            nn.init.xavier_normal_(linear.weight)
        for linear in linears:
            nn.init.zeros_(linear.bias)

    def dense_parameters(self) -> Iterator[nn.Parameter]:
        """Yield every parameter but the table."""
        return (value for name, value in self.named_parameters() if name != "table")

    def forward(
        self,
        context: Tensor,
        candidate: Tensor,
        row_context: Tensor,
        context_lists: Sequence[Tensor] = (),
        candidate_lists: Sequence[Tensor] = (),
    ) -> Tensor:
        """Return the logit float32 [N] of every row.

        ``context`` [U, Sc], ``candidate`` [N, Si] and the lists [U, L], [N, L] hold indices
        into the table, 0 being padding; ``row_context`` [N] names each row's context.
        """
        return self.logit(
            self.table, context, candidate, row_context, context_lists, candidate_lists
        )

    def logit(
        self,
        table_TK: Tensor,
        context_UF: Tensor,
        candidate_NF: Tensor,
        row_context_N: Tensor,
        context_lists_UL: Sequence[Tensor],
        candidate_lists_NL: Sequence[Tensor],
    ) -> Tensor:
        """Return the logit [N] with ``table_TK`` in the table's place.

        Training passes the few rows that its batch names, and indices into those.
        """
        context = look_up(table_TK, context_UF, context_lists_UL)
        candidate = look_up(table_TK, candidate_NF, candidate_lists_NL)

        first_order_N = context.first_order.index_select(0, row_context_N) + candidate.first_order
        pairwise_N = (
            context.pairwise.index_select(0, row_context_N)
            + candidate.pairwise
            + (context.total.index_select(0, row_context_N) * candidate.total).sum(1)
        )
        deep_N = self.deep(context.embedding, candidate.embedding, row_context_N)
        return self.bias + first_order_N + pairwise_N + deep_N

    def deep(self, context_UZ: Tensor, candidate_NZ: Tensor, row_context_N: Tensor) -> Tensor:
        """Return the MLP's output [N]; its first layer sees each context only once."""
        weight_HZ = self.first.weight
        context_HZ, candidate_HZ = weight_HZ[:, : self.split], weight_HZ[:, self.split :]
        context_UH = functional.linear(context_UZ, context_HZ, self.first.bias)
        hidden_NH = context_UH.index_select(0, row_context_N) + functional.linear(
            candidate_NZ, candidate_HZ
        )
        hidden_NH = self.dropout(functional.relu(self.norms[0](hidden_NH)))
        for linear, norm in zip(self.deeper, self.norms[1:], strict=True):
            hidden_NH = self.dropout(functional.relu(norm(linear(hidden_NH))))
        deep_N: Tensor = self.output(hidden_NH).squeeze(1)
        return deep_N

    def folded(self) -> DeepFM:
        """Return the same function for inference without batch norm, the table being shared.

        BN(Wx + c) = s (Wx + c - mean) + beta with s = gamma / sqrt(var + eps), so s scales W
        and the rest joins the bias (Ioffe and Szegedy 2015).
        """
        network = copy.deepcopy(self, {id(self.table): self.table}).eval()
        linears = (network.first, *network.deeper)
        for linear, norm in zip(linears, network.norms, strict=True):
            if isinstance(norm, nn.BatchNorm1d):
                _fold(linear, norm)
        network.norms = nn.ModuleList(nn.Identity() for _ in network.norms)
        return network


def look_up(table_TK: Tensor, index_RF: Tensor, lists_RL: Sequence[Tensor]) -> Side:
    """Gather one side's fields, single values and then list means, and sum them up."""
    row_RFK = torch.cat(
        [
            functional.embedding(index_RF, table_TK, padding_idx=PADDING),
            *(mean_of_list(table_TK, index_RL).unsqueeze(1) for index_RL in lists_RL),
        ],
        dim=1,
    )
    weight_RF, embedding_RFK = row_RFK[:, :, 0], row_RFK[:, :, 1:]
    total_RK = embedding_RFK.sum(1)
    pairwise_R = 0.5 * (total_RK.square() - embedding_RFK.square().sum(1)).sum(1)
    return Side(weight_RF.sum(1), total_RK, pairwise_R, embedding_RFK.flatten(1))


def mean_of_list(table_TK: Tensor, index_RL: Tensor) -> Tensor:
    """Return the mean row [R, 1 + K] of each list's values; exactly zero for an empty list."""
    total_RK = functional.embedding(index_RL, table_TK, padding_idx=PADDING).sum(1)
    count_R1 = (index_RL != PADDING).sum(1, keepdim=True).clamp(min=1)
    return total_RK / count_R1


@torch.no_grad()
def _fold(linear: nn.Module, norm: nn.BatchNorm1d) -> None:
    assert isinstance(linear, nn.Linear)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = (linear.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
    linear.weight.copy_(linear.weight.double() * scale.unsqueeze(1))
    linear.bias.copy_(bias)
