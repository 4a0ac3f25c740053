"""Weights of pairs of values: the cross products of a wide part (Cheng et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from app.features.layout import PADDING, Layout, Slot
from model.networks.network import NetworkInputs, mean_of_list
from model.networks.rows import of_rows

RARE = 1
"""The weight that all rare pairs share, never seen ones included."""
MEAN = 2
"""The weight of a mean's pairs with any value. The pairs' own weights follow."""


@dataclass(frozen=True, slots=True)
class Operand:
    """One of two crossed slots: where its indices are."""

    slot: Slot
    context: bool
    listed: bool
    place: int
    """Its number among the side's single-valued slots, or among the side's lists."""

    @classmethod
    def find(cls, layout: Layout, name: str) -> Operand:
        """Return the operand of the slot with a name."""
        inputs = (
            (layout.context, True, False),
            (layout.candidate, False, False),
            (layout.context_lists, True, True),
            (layout.candidate_lists, False, True),
        )
        return next(
            cls(slot, context, listed, place)
            for slots, context, listed in inputs
            for place, slot in enumerate(slots)
            if slot.name == name
        )

    @property
    def numbers(self) -> int:
        """The number of values that :meth:`values` may give, padding and the mean included."""
        return 1 + self.slot.size + (self.slot.mean is not None)

    def values(self, inputs: NetworkInputs) -> Tensor:
        """Return a row's values as numbers [R, L] from 1 on, missing and OOV too.

        0 is padding; the slot's mean, if it has one, is the last number.
        """
        if self.listed:
            lists = inputs.context_lists if self.context else inputs.candidate_lists
            index_RL = lists[self.place]
        else:
            single = inputs.context if self.context else inputs.candidate
            index_RL = single[:, self.place : self.place + 1]
        # No index of this slot is below its first row but padding, and none behind its values but
        # its mean.
        return (index_RL - (self.slot.first - 1)).clamp(min=PADDING, max=self.numbers - 1)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Two crossed slots: a number for each pair of a left and a right value."""

    left: Operand
    right: Operand

    @property
    def of_context(self) -> bool:
        """True if both slots are the context's, so that a context has one pair."""
        return self.left.context and self.right.context

    @property
    def numbers(self) -> int:
        """The number of pairs that :meth:`find` may give."""
        return self.left.numbers * self.right.numbers

    def find(self, inputs: NetworkInputs) -> Tensor:
        """Return the numbers of all pairs of a row [N, L], or of a context [U, L] if its own."""
        left_RL, right_RL = (self._values(operand, inputs) for operand in (self.left, self.right))
        return (left_RL.unsqueeze(2) * self.right.numbers + right_RL.unsqueeze(1)).flatten(1)

    def _values(self, operand: Operand, inputs: NetworkInputs) -> Tensor:
        value_RL = operand.values(inputs)
        if operand.context and not self.of_context:
            return of_rows(value_RL, inputs.row_context)
        return value_RL


@dataclass(frozen=True, slots=True)
class CrossWeights:
    """The weight of each pair of values: ``weight_of`` int32 [numbers] by the pair's number.

    Weight 0 is padding's and stays zero; ``weights`` is their number.
    """

    pairs: Pairs
    weight_of: NDArray[np.int32]
    weights: int

    def described(self) -> dict[str, Any]:
        """Return its description for the manifest: slots, and pairs with a weight of their own."""
        names = [self.pairs.left.slot.name, self.pairs.right.slot.name]
        return {"fields": names, "pairs": self.weights - MEAN - 1}


class CrossTerm(nn.Module):
    """The weight of a row's pair; for lists, the mean weight of all pairs, zero without any."""

    weight_of: Tensor

    def __init__(self, cross: CrossWeights) -> None:
        """Start from zero weights."""
        super().__init__()
        self.pairs = cross.pairs
        self.listed = cross.pairs.left.listed or cross.pairs.right.listed
        self.weight = nn.Parameter(torch.zeros(cross.weights, 1))
        self.register_buffer("weight_of", torch.from_numpy(cross.weight_of), persistent=False)

    def weight_numbers(self, inputs: NetworkInputs) -> Tensor:
        """Return the number of the weight of each pair of a row [N, L], or of a context [U, L]."""
        pair_RL = self.pairs.find(inputs)
        return self.weight_of.index_select(0, pair_RL.flatten()).reshape(pair_RL.shape)

    def forward(self, inputs: NetworkInputs) -> Tensor:
        """Return the term [N] of every row."""
        number_RL = self.weight_numbers(inputs)
        if self.listed:
            term_R1 = mean_of_list(self.weight, number_RL)
        else:
            term_R1 = functional.embedding(number_RL[:, 0], self.weight, padding_idx=PADDING)
        if self.pairs.of_context:
            term_R1 = of_rows(term_R1, inputs.row_context)
        return term_R1.squeeze(1)
