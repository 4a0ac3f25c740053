"""Encoded rows as the trainer sees them: integer columns and labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.networks.network import Inputs

Indices = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Indices into the fused table for R rows, and their labels.

    ``context`` is int32 [R, Sc], ``candidate`` int32 [R, Si]; each list input is int32
    [R, L] with 0 for padding; ``label`` is uint8 [R] holding 0 or 1.
    """

    context: Indices
    candidate: Indices
    context_lists: tuple[Indices, ...]
    candidate_lists: tuple[Indices, ...]
    label: NDArray[np.uint8]

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
        )

    def inputs(self) -> Inputs:
        """Return all rows as a network's inputs, each row being its own context."""
        return Inputs(
            torch.tensor(self.context),
            torch.tensor(self.candidate),
            torch.arange(len(self)),
            [torch.tensor(column) for column in self.context_lists],
            [torch.tensor(column) for column in self.candidate_lists],
        )
