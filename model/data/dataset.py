"""Encoded rows as the trainer sees them: integer columns and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.features.arrays import Floats, Indices
from app.features.layout import RowShape

if TYPE_CHECKING:
    from model.networks.network import NetworkInputs

Shapes = tuple[RowShape, RowShape]
"""The shapes of the encoder's rows of context and candidate."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Indices into the fused table for R rows, and their labels.

    ``context`` is int32 [R, Sc], ``candidate`` int32 [R, Si]; each list input is int32
    [R, L] with 0 for padding; ``label`` is uint8 [R] holding 0 or 1. The numbers of a side's
    scaled slots are float32 [R, V], None if it has none. ``kept`` is the share of all rows
    without a click that these rows hold. ``weight`` is float32 [R], None where all weigh the same.
    """

    context: Indices
    candidate: Indices
    context_lists: tuple[Indices, ...]
    candidate_lists: tuple[Indices, ...]
    label: NDArray[np.uint8]
    context_value: Floats | None = None
    candidate_value: Floats | None = None
    kept: float = 1.0
    weight: Floats | None = None

    @classmethod
    def of_rows(
        cls,
        context: Indices,
        candidate: Indices,
        shapes: Shapes,
        label: NDArray[np.uint8],
        weight: Floats | None = None,
    ) -> Dataset:
        """Cut the encoder's rows of both sides, [R, Wc] and [R, Wi]."""
        (context_single, context_lists, context_value) = _cut(context, shapes[0])
        (candidate_single, candidate_lists, candidate_value) = _cut(candidate, shapes[1])
        return cls(
            context_single,
            candidate_single,
            context_lists,
            candidate_lists,
            label,
            context_value,
            candidate_value,
            weight=weight,
        )

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: NDArray[np.int64] | slice) -> Dataset:
        """Return the named rows, in the order given."""
        return Dataset(
            self.context[rows],
            self.candidate[rows],
            tuple(column[rows] for column in self.context_lists),
            tuple(column[rows] for column in self.candidate_lists),
            self.label[rows],
            None if self.context_value is None else self.context_value[rows],
            None if self.candidate_value is None else self.candidate_value[rows],
            self.kept,
            None if self.weight is None else self.weight[rows],
        )

    def inputs(self) -> NetworkInputs:
        """Return all rows as a network's inputs, each row being its own context."""
        import torch

        from model.networks.network import NetworkInputs

        return NetworkInputs(
            torch.tensor(self.context),
            torch.tensor(self.candidate),
            None,
            [torch.tensor(column) for column in self.context_lists],
            [torch.tensor(column) for column in self.candidate_lists],
            None if self.context_value is None else torch.tensor(self.context_value),
            None if self.candidate_value is None else torch.tensor(self.candidate_value),
        )

    @property
    def context_rows(self) -> Indices:
        """The context's columns side by side, as the encoder's rows have them."""
        return _join(self.context, self.context_lists, self.context_value)

    @property
    def candidate_rows(self) -> Indices:
        """The candidate's columns side by side, as the encoder's rows have them."""
        return _join(self.candidate, self.candidate_lists, self.candidate_value)


def _cut(rows: Indices, shape: RowShape) -> tuple[Indices, tuple[Indices, ...], Floats | None]:
    single = np.ascontiguousarray(rows[:, : shape.single])
    lists = tuple(np.ascontiguousarray(rows[:, start:stop]) for start, stop in shape.lists)
    if not shape.values:
        return single, lists, None
    return single, lists, np.ascontiguousarray(rows[:, shape.indices :]).view(np.float32)


def _join(single: Indices, lists: Sequence[Indices], value: Floats | None) -> Indices:
    words = [] if value is None else [value.view(np.int32)]
    return np.ascontiguousarray(np.concatenate([single, *lists, *words], axis=1))
