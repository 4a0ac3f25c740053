"""The indices of the training rows, and how often each row of the table is named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.features.arrays import Indices
from app.features.layout import Layout
from model.config import TrainConfig
from model.data.dataset import Dataset
from model.networks.network import NetworkInputs
from model.training.sampling import Sampling

Rows = NDArray[np.int64]
_COUNTED_AT_ONCE = 2**17


class IndexColumns:
    """Every index of the training rows, batch by batch: the data may be larger than memory.

    There are C columns: the single-valued slots of both sides, then each list's places.
    ``can_hide`` [C] marks the columns of values that might have been unseen, single-valued and
    not scaled, and ``oov`` [C] has their OOV rows.
    """

    def __init__(self, layout: Layout, data: Dataset) -> None:
        self._parts = (data.context, data.candidate, *data.context_lists, *data.candidate_lists)
        self._widths = [part.shape[1] for part in self._parts]
        self._context_lists = len(data.context_lists)
        singles = layout.context + layout.candidate
        self.can_hide = np.zeros(sum(self._widths), np.bool_)
        self.can_hide[: len(singles)] = [not slot.scaled for slot in singles]
        self.oov = np.zeros(sum(self._widths), np.int32)
        self.oov[: len(singles)] = [slot.oov for slot in singles]
        self._values = (data.context_value, data.candidate_value)

    def take(self, rows: Rows | slice) -> Indices:
        """Return the indices [N, C] of some rows."""
        return np.concatenate([part[rows] for part in self._parts], axis=1)

    def values(self, rows: Rows) -> list[Tensor]:
        """Return the numbers of some rows, of the sides that have any, the context's first."""
        return [torch.from_numpy(value[rows]) for value in self._values if value is not None]

    def inputs(self, index: Tensor, values: Sequence[Tensor]) -> NetworkInputs:
        """Cut indices [N, C] into a network's inputs, every row its own context.

        ``values`` are the rows' numbers as :meth:`values` gives them.
        """
        context, candidate, *lists = torch.split(index, self._widths, dim=1)
        split, given = self._context_lists, iter(values)
        numbers = (None if value is None else next(given) for value in self._values)
        return NetworkInputs(context, candidate, None, lists[:split], lists[split:], *numbers)

    def row_l2(self, config: TrainConfig, sampling: Sampling, own: range) -> Tensor:
        """Return the decay [own] per named row that stands in for lambda on every row and step.

        A row that a share P of the batches name is decayed in those only, 1/P as hard;
        P = 1 - (1 - count / R)^batch, from the counts that training expects.
        """
        rows = sampling.rows
        single, listed = self._expected(sampling, own)
        count = single * (1 - config.oov_rate) + listed
        count[_places(self.oov[self.can_hide], own)] += config.oov_rate * rows
        named = 1 - (1 - np.minimum(count / rows, 1)) ** min(config.batch_size, rows)
        l2 = np.divide(config.embedding_l2, named, out=np.zeros_like(named), where=named > 0)
        return torch.from_numpy(l2.astype(np.float32))

    def _expected(
        self, sampling: Sampling, own: range
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return how often an epoch is expected to name each of some table rows [own].

        In the columns that can be hidden, and in the others.
        """
        counts = np.zeros((2, len(own)))
        for start in range(0, len(sampling.label), _COUNTED_AT_ONCE):
            rows = slice(start, start + _COUNTED_AT_ONCE)
            index, label = self.take(rows), sampling.label[rows]
            for click, share in ((1, 1.0), (0, sampling.rate)):
                found = index[label == click]
                for count, columns in zip(counts, (self.can_hide, ~self.can_hide), strict=True):
                    named = _places(found[:, columns].ravel(), own)
                    count += share * np.bincount(named, minlength=len(own))
        return counts[0], counts[1]


def _places(row: Indices, own: range) -> Indices:
    """Return the places in a range of those rows that are within it."""
    within: Indices = row[(row >= own.start) & (row < own.stop)] - own.start
    return within
