"""The players of an explanation: fields or groups of them, and rows in which some are absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.errors import NotOffered
from app.explain.shapley import Coalitions
from app.features.arrays import Indices
from app.features.graph_inputs import Batch
from app.features.layout import PADDING, Layout, RowShape, Slot

Baseline = Literal["mean", "missing"]
"""The stand-in for the value of an absent field: its mean row of training, or the missing one."""
_ONE = int(np.float32(1).view(np.int32))


class Row(NamedTuple):
    """An encoded row: the words of its context [Wc] and of its candidate [Wi]."""

    context: Indices
    candidate: Indices


class FieldWords:
    """The words of each field in encoded rows, and what stands there while the field is absent."""

    def __init__(self, layout: Layout, context: RowShape, candidate: RowShape) -> None:
        self.layout = layout
        self._sides = (
            _Side(layout.context, layout.context_lists, context),
            _Side(layout.candidate, layout.candidate_lists, candidate),
        )
        by_side = [slot.field for side in self._sides for slot in side.slots]
        self.fields = tuple(dict.fromkeys(by_side))
        """Every field, the context's first."""
        numbers = {field: number for number, field in enumerate(self.fields)}
        self.of_words = [
            np.array([numbers[slot.field] for slot in side.of_words], np.int64)
            for side in self._sides
        ]
        self.of_slots = np.array([numbers[slot.field] for slot in layout.slots], np.int64)
        """The field of each slot, in the order of ``Layout.slots``."""

    def baseline(self, kind: Baseline) -> Row:
        """Return the row in which every field is absent.

        Raises:
            NotOffered: the bundle has no mean rows.
        """
        if kind == "mean" and any(slot.mean is None for slot in self.layout.slots):
            raise NotOffered(
                'this bundle has no mean rows to compare with: ask for "baseline": "missing", or'
                " train it again"
            )
        return Row(*(side.absent(kind) for side in self._sides))


class _Side:
    """One side of a row: the slot of each of its words."""

    def __init__(self, single: Sequence[Slot], lists: Sequence[Slot], shape: RowShape) -> None:
        self.slots = (*single, *lists)
        scaled = [slot for slot in single if slot.scaled]
        places = [
            slot
            for slot, (start, stop) in zip(lists, shape.lists, strict=True)
            for _ in range(stop - start)
        ]
        self.of_words = (*single, *places, *scaled)
        self._first = [start for start, _ in shape.lists]
        self._single = single
        self._lists = lists
        self._shape = shape

    def absent(self, kind: Baseline) -> Indices:
        """Return the words of absent fields: a list has one value, a number is 1."""
        words = np.zeros(self._shape.width, np.int32)
        words[: len(self._single)] = [_index(slot, kind) for slot in self._single]
        words[self._first] = [_index(slot, kind) for slot in self._lists]
        words[self._shape.indices :] = _ONE
        return words


def _index(slot: Slot, kind: Baseline) -> int:
    if kind == "missing" and slot.empty_if_absent:
        # As it is encoded.
        return PADDING
    # A mean that is None has been refused.
    return slot.missing if kind == "missing" or slot.mean is None else slot.mean


class Players:
    """Fields by themselves or in groups, each of which is present or absent as a whole."""

    def __init__(self, words: FieldWords, groups: Mapping[str, Sequence[str]] = {}) -> None:
        """``groups`` name fields; every other field is a player of its own."""
        player_of = {field: name for name, fields in groups.items() for field in fields}
        named = [player_of.get(field, field) for field in words.fields]
        self.names = tuple(dict.fromkeys(named))
        self._words = words
        self.of_fields = np.array([self.names.index(name) for name in named], np.int64)
        """The player of each field."""

    def rows(self, row: Row, baseline: Row, present: Coalitions) -> Batch:
        """Return a row for each coalition: where a player is absent, the baseline's words.

        Coalitions that have the same players of the context share its row.
        """
        context, candidate = (
            np.where(present[:, self.of_fields[fields]], own, absent)
            for fields, own, absent in zip(self._words.of_words, row, baseline, strict=True)
        )
        different, owners = _different(context)
        return Batch(different, np.ascontiguousarray(candidate), owners)


def _different(rows: Indices) -> tuple[Indices, Indices]:
    """Return the different ones of rows [M, W], and which of them each row is."""
    places: dict[bytes, int] = {}
    owners: NDArray[np.int32] = np.array(
        [places.setdefault(row.tobytes(), len(places)) for row in rows], np.int32
    )
    joined = np.frombuffer(b"".join(places), np.int32)
    return joined.reshape(len(places), rows.shape[1]), owners
