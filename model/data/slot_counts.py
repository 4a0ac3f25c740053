"""Counts of the indices of each slot in encoded rows, for the mean rows and for statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from app.features.arrays import Floats, Indices
from app.features.layout import PADDING, Layout, Slot
from model.data.dataset import Dataset

_COUNTED_AT_ONCE = 2**17
"""Rows of a piece. Each is read once for all slots: the rows may be larger than memory."""


class SlotColumn(NamedTuple):
    """A slot's indices [R, L] of R rows, L being 1 but for a list; a scaled slot's numbers [R]."""

    slot: Slot
    indices: Indices
    value: Floats | None


class SlotCounts:
    """Counts over rows for each of a slot's values, by its place in the slot's range."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.indices = np.zeros(slot.size, np.int64)
        """Number of indices that name the value; a list has several in a row."""
        self.rows = np.zeros(slot.size)
        """The same by rows: a value of a list of n counts 1/n."""
        self.factors = np.zeros(slot.size) if slot.scaled else self.rows
        """Sum of the factors of the value's row of the table: numbers of a scaled slot, or
        ``rows``."""
        self.any_oov = 0
        """Rows in which at least one index is OOV."""

    def add(self, column: SlotColumn) -> None:
        """Count more rows."""
        slot, indices, value = column
        present = indices != PADDING
        places = indices[present] - slot.first
        counted = np.bincount(places, minlength=slot.size)
        self.indices += counted
        if indices.shape[1] == 1:
            self.rows += counted
        else:
            length = present.sum(1)
            share = np.repeat(1 / np.maximum(length, 1), length)
            self.rows += np.bincount(places, share, minlength=slot.size)
        if value is not None:
            self.factors += np.bincount(places, value, minlength=slot.size)
        self.any_oov += int((indices == slot.oov).any(1).sum())


def count_slots(layout: Layout, data: Dataset) -> Sequence[SlotCounts]:
    """Count the indices of every slot, in the order of ``layout.slots``."""
    counts = [SlotCounts(slot) for slot in layout.slots]
    for piece in _pieces(data):
        for counted, column in zip(counts, slot_columns(layout, piece), strict=True):
            counted.add(column)
    return counts


def always_present(layout: Layout, data: Dataset) -> list[str]:
    """Return the fields that no row lacks, in the order of the slots.

    Past items and their ages are empty where they are absent, which needs no training.
    """
    lacking = {slot.field for slot in layout.slots if slot.empty_if_absent}
    for piece in _pieces(data):
        for slot, indices, _ in slot_columns(layout, piece):
            if slot.field not in lacking and (indices == slot.missing).any():
                lacking.add(slot.field)
    fields = dict.fromkeys(slot.field for slot in layout.slots)
    return [field for field in fields if field not in lacking]


def slot_columns(layout: Layout, data: Dataset) -> Iterator[SlotColumn]:
    """Yield the column of every slot, in the order of ``layout.slots``."""
    sides = (
        (layout.context, data.context, data.context_value),
        (layout.candidate, data.candidate, data.candidate_value),
    )
    for slots, indices, values in sides:
        plain = sum(not slot.scaled for slot in slots)
        for place, slot in enumerate(slots):
            value = None if values is None or place < plain else values[:, place - plain]
            yield SlotColumn(slot, indices[:, place : place + 1], value)
    lists = (
        *zip(layout.context_lists, data.context_lists, strict=True),
        *zip(layout.candidate_lists, data.candidate_lists, strict=True),
    )
    for slot, indices in lists:
        yield SlotColumn(slot, indices, None)


def _pieces(data: Dataset) -> Iterator[Dataset]:
    for start in range(0, len(data), _COUNTED_AT_ONCE):
        yield data.take(slice(start, start + _COUNTED_AT_ONCE))
