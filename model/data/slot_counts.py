"""Counts of the indices of each slot in encoded rows: what the mean rows and histograms rest on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.features.arrays import Floats, Indices
from app.features.layout import PADDING, Layout, Slot
from model.data.dataset import Dataset

_COUNTED_AT_ONCE = 2**17


class SlotColumn(NamedTuple):
    """A slot's indices [R, L] of R rows, L being 1 but for a list; a scaled slot's numbers [R]."""

    slot: Slot
    indices: Indices
    value: Floats | None


class SlotCounts(NamedTuple):
    """Counts over rows for each of a slot's values, by its place in the slot's range."""

    indices: NDArray[np.int64]
    """How many indices name the value; a list has several."""
    rows: NDArray[np.float64]
    """The same by rows: a value of a list of n counts 1/n."""
    factors: NDArray[np.float64]
    """Sum of what the value's row of the table is multiplied by: ``rows``, of a scaled slot the
    sum of its numbers."""
    any_oov: int
    """Rows in which at least one index is OOV."""


def slot_columns(layout: Layout, data: Dataset) -> Iterator[SlotColumn]:
    """Yield the column of every slot, in the order of ``layout.slots``."""
    sides = (
        (layout.context, data.context, data.context_value),
        (layout.candidate, data.candidate, data.candidate_value),
    )
    for slots, index, value in sides:
        scaled = 0
        for place, slot in enumerate(slots):
            number = None
            if slot.scaled and value is not None:
                number = value[:, scaled]
                scaled += 1
            yield SlotColumn(slot, index[:, place : place + 1], number)
    lists = (
        *zip(layout.context_lists, data.context_lists, strict=True),
        *zip(layout.candidate_lists, data.candidate_lists, strict=True),
    )
    for slot, index in lists:
        yield SlotColumn(slot, index, None)


def count_slot(column: SlotColumn) -> SlotCounts:
    """Count a slot's indices over all rows, some at a time: they may be larger than memory."""
    slot, columns, value = column
    size = slot.size
    indices, rows, factors = np.zeros(size, np.int64), np.zeros(size), np.zeros(size)
    any_oov = 0
    for start in range(0, len(columns), _COUNTED_AT_ONCE):
        taken = slice(start, start + _COUNTED_AT_ONCE)
        part = columns[taken]
        present = part != PADDING
        places = part[present] - slot.first
        length = present.sum(1)
        share = np.repeat(1 / np.maximum(length, 1), length)
        indices += np.bincount(places, minlength=size)
        rows += np.bincount(places, share, minlength=size)
        if value is not None:
            factors += np.bincount(places, value[taken], minlength=size)
        any_oov += int((part == slot.oov).any(1).sum())
    return SlotCounts(indices, rows, rows if value is None else factors, any_oov)


def always_present(layout: Layout, data: Dataset) -> list[str]:
    """Return the fields that no row lacks, in the order of the slots."""
    lacking = {column.slot.field for column in slot_columns(layout, data) if _has_missing(column)}
    fields = dict.fromkeys(slot.field for slot in layout.slots)
    return [field for field in fields if field not in lacking]


def _has_missing(column: SlotColumn) -> bool:
    return any(
        bool((column.indices[start : start + _COUNTED_AT_ONCE] == column.slot.missing).any())
        for start in range(0, len(column.indices), _COUNTED_AT_ONCE)
    )
