"""DIN: past items, each weighed by the candidate (Zhou et al. 2018, arXiv:1706.06978)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.features.layout import PADDING, Layout
from model.config import TrainConfig
from model.networks.mlp import Mlp
from model.networks.network import Network, NetworkInputs, field_counts, look_up, new_table
from model.networks.rows import RowContext, of_rows

ATTENTION_UNITS = 36
"""Hidden units of an attention unit; the paper's number."""


class DIN(Network):
    """logit = b + MLP(v_1, ..., v_F, u_1, ..., u_S), u_s = sum_j a(e_j, c) e_j.

    A list of the context that attends to a field of the candidate holds events e_j, past items
    with the embeddings of that field, c being the candidate's own; each such list has a u_s. Other
    fields have their vector, other lists their mean. The weights a of events are no shares: as in
    the paper there is no softmax, so that u tells many events like the candidate from few. Where a
    list has the ages of events, e_j is the item's vector plus its age's. A row of the table is v.

    ``AttentionUnit`` says what a computes. Left out is the paper's Dice, whose activation depends
    on the other rows of a batch in training, and its regulariser, in whose place is the L2 of all
    networks. Without a list that attends, this is the paper's base model: embeddings and an MLP.
    """

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        size = config.embedding_size
        super().__init__(new_table(layout, config, 0, size), base_rate)
        names = [slot.name for slot in layout.candidate]
        self.targets = [
            names.index(slot.shares) if slot.shares in names else None
            for slot in layout.context_lists
        ]
        """The candidate's field to which each list of the context attends, None if to none."""
        ages_of = [slot.ages_of for slot in layout.context_lists]
        self.ages = [
            ages_of.index(slot.name) if slot.name in ages_of else None
            for slot in layout.context_lists
        ]
        """The list of the context that has the ages of each list's values, None if none has."""
        attending = sum(target is not None for target in self.targets)
        self.attention = nn.ModuleList(AttentionUnit(size) for _ in range(attending))
        contexts, candidates = field_counts(layout)
        self.contexts = contexts - attending
        """Fields that are the context's alone."""
        self.mlp = Mlp(
            size * self.contexts,
            size * (candidates + attending),
            config,
            beside=size * attending,
        )

    def logit(self, table_TC: Tensor, place: NetworkInputs, inputs: NetworkInputs) -> Tensor:
        lists = list(zip(place.context_lists, self.targets, strict=True))
        candidate_NFK = look_up(
            table_TC, place.candidate, place.candidate_lists, place.candidate_value
        )
        context_UX = None
        if self.contexts:
            others = [index_UL for index_UL, target in lists if target is None]
            context_UFK = look_up(table_TC, place.context, others, place.context_value)
            context_UX = context_UFK.flatten(1)
        units = iter(self.attention)
        interests = [
            next(units)(
                events(table_TC, index_UL, None if ages is None else place.context_lists[ages]),
                candidate_NFK[:, target],
                place.row_context,
            )
            for (index_UL, target), ages in zip(lists, self.ages, strict=True)
            if target is not None
        ]
        deep_N: Tensor = self.mlp(
            context_UX, candidate_NFK.flatten(1), place.row_context, _joined(interests)
        )
        return self.bias + deep_N


def events(table_TC: Tensor, index_UL: Tensor, ages_UL: Tensor | None) -> Tensor:
    """Return the vector of each event [U, L, K], zero for padding: the item's, plus its age's.

    The ages may have another length: events without an age have none added.
    """
    events_ULK = functional.embedding(index_UL, table_TC, padding_idx=PADDING)
    if ages_UL is None:
        return events_ULK
    # Two lists of a batch may be of any length; this is no branch, which a graph could not have.
    ages_UL = torch.cat([ages_UL, torch.zeros_like(index_UL)], 1)[:, : index_UL.shape[1]]
    ages_ULK = functional.embedding(ages_UL, table_TC, padding_idx=PADDING)
    present_UL = (index_UL != PADDING).to(events_ULK.dtype)
    return events_ULK + ages_ULK * present_UL.unsqueeze(2)


def _joined(values_NK: Sequence[Tensor]) -> Tensor | None:
    return torch.cat(list(values_NK), 1) if values_NK else None


class AttentionUnit(nn.Module):
    """sum_j a(e_j, c) e_j [N, K], a(e, c) = w^T f(A e + B c + C (e * c) + d) + g.

    ``*`` is elementwise, f is PReLU (He et al. 2015, arXiv:1502.01852). The paper's input to the
    unit has "out product" beside both vectors; as in its authors' program that is e * c. Their
    e - c is left out: A and B hold it, the first layer being linear.

    A e_j + d is computed once for each event of a context, B c once for each candidate; C (e * c)
    and what follows once for each of their pairs. Padding has e = 0 and adds nothing.
    """

    def __init__(self, size: int) -> None:
        """Start from weights a near 1, so from the sum of the events, and from slopes of 1/4."""
        super().__init__()
        units = ATTENTION_UNITS
        # Xavier's variance for the three products as one.
        std = (2 / (3 * size + units)) ** 0.5
        # [K, A], not [A, K]: what the graph multiplies by is then the parameter as it is.
        self.of_event = nn.Parameter(torch.randn(size, units).mul_(std))
        self.of_candidate = nn.Parameter(torch.randn(size, units).mul_(std))
        self.of_product = nn.Parameter(torch.randn(size, units).mul_(std))
        self.bias = nn.Parameter(torch.zeros(units))
        self.slope = nn.Parameter(torch.full((units,), 0.25))
        self.output = nn.Parameter(torch.randn(units, 1).mul_((2 / (units + 1)) ** 0.5))
        self.output_bias = nn.Parameter(torch.ones(1))

    def forward(
        self, events_ULK: Tensor, candidate_NK: Tensor, row_context_N: RowContext
    ) -> Tensor:
        events_NLK = of_rows(events_ULK, row_context_N)
        weight_N1L = self.weights(events_ULK, events_NLK, candidate_NK, row_context_N)
        interest_NK: Tensor = (weight_N1L @ events_NLK).squeeze(1)
        return interest_NK

    def weights(
        self,
        events_ULK: Tensor,
        events_NLK: Tensor,
        candidate_NK: Tensor,
        row_context_N: RowContext,
    ) -> Tensor:
        """Return the weight of each event for each candidate [N, 1, L]."""
        event_ULA = events_ULK @ self.of_event + self.bias
        candidate_N1A = (candidate_NK @ self.of_candidate).unsqueeze(1)
        pair_NLA = (events_NLK * candidate_NK.unsqueeze(1)) @ self.of_product
        hidden_NLA = of_rows(event_ULA, row_context_N) + candidate_N1A + pair_NLA
        # PReLU as it is usually written: of torch's own, the graph holds the slopes reshaped.
        active_NLA = torch.where(hidden_NLA > 0, hidden_NLA, self.slope * hidden_NLA)
        weight_NL1 = active_NLA @ self.output + self.output_bias
        # No transposition: onnxruntime 1.31 joins one to the product that follows, whose result is
        # then anything but zero where there are no events.
        return weight_NL1.squeeze(2).unsqueeze(1)
