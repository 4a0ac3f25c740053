"""The layout of the fused embedding table: the rows of each slot.

Row 0 of the table is padding: always zero, never trained. Then each slot has one contiguous range:
its first row is *missing*, its second *OOV*, and the known values follow. Behind the ranges of all
slots each slot has one more row, its *mean*: what the field contributes on average in the training
part. No value is encoded to it. A slot that *shares* another's rows has no range of its own. A slot
is one column of indices that the graph reads: most fields have one, a ``time`` field has one for
each of its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PADDING = 0
RESERVED_ROWS = 2
"""Rows at the start of a slot's range: missing and OOV."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One column of indices; its values have the table rows ``[first, first + size)``."""

    name: str
    field: str
    first: int
    size: int
    scaled: bool = False
    """True if the row that an index names is multiplied by the feature's value."""
    mean: int | None = None
    """Row of the slot's mean; None in bundles of format 1, which have none."""
    dynamic: bool = False
    """True if its values come with a request, so that nothing can be computed from them before."""
    shares: str | None = None
    """Name of the slot whose rows its values have too; its mean alone is a row of its own."""
    ages_of: str | None = None
    """Name of the list of past items whose ages it has, place by place."""

    @property
    def source(self) -> str:
        """Name of the slot that its values' rows belong to: its own, unless it shares another's."""
        return self.shares or self.name

    @property
    def empty_if_absent(self) -> bool:
        """True of a list of past items, or of their ages: where there is none it is empty."""
        return self.shares is not None or self.ages_of is not None

    @property
    def ranges(self) -> tuple[slice, ...]:
        """All table rows of the slot: those of its values, and its mean."""
        values = slice(self.first, self.first + self.size)
        return (values,) if self.mean is None else (values, slice(self.mean, self.mean + 1))

    @property
    def missing(self) -> int:
        """Row of an absent value."""
        return self.first

    @property
    def oov(self) -> int:
        """Row of a value that training never saw, or too rarely."""
        return self.first + 1


class RowShape(NamedTuple):
    """The parts of one side's row of ``width`` words: single-valued slots, lists, values.

    The first ``single`` are the single-valued slots, the last of them the scaled ones;
    ``lists`` has the column range of each list slot, padded with 0. The last ``values`` words
    are the bits of float32 numbers, one for each scaled slot; all others are indices.
    """

    width: int
    single: int
    lists: tuple[tuple[int, int], ...]
    values: int = 0

    @property
    def indices(self) -> int:
        """Number of words that are indices."""
        return self.width - self.values


@dataclass(frozen=True, slots=True)
class Layout:
    """The slots of both sides in the order in which the graph's inputs hold them.

    A side's scaled slots are the last of its single-valued ones.
    """

    context: tuple[Slot, ...]
    candidate: tuple[Slot, ...]
    context_lists: tuple[Slot, ...]
    candidate_lists: tuple[Slot, ...]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every slot, single-valued ones first."""
        return self.context + self.candidate + self.context_lists + self.candidate_lists

    @property
    def shared(self) -> frozenset[str]:
        """Names of the slots whose rows other slots share."""
        return frozenset(slot.shares for slot in self.slots if slot.shares)

    @property
    def has_dynamic(self) -> bool:
        """True if a candidate has dynamic slots."""
        return any(slot.dynamic for slot in self.candidate + self.candidate_lists)

    @property
    def has_both(self) -> bool:
        """True if a candidate has dynamic slots beside those of stored values."""
        return len({slot.dynamic for slot in self.candidate + self.candidate_lists}) == 2

    @property
    def context_values(self) -> int:
        """Number of scaled slots of the context."""
        return sum(slot.scaled for slot in self.context)

    @property
    def candidate_values(self) -> int:
        """Number of scaled slots of the candidate."""
        return sum(slot.scaled for slot in self.candidate)

    @property
    def encoded_rows(self) -> int:
        """Rows that values are encoded to, padding included; the means follow them."""
        return 1 + sum(slot.size for slot in self.slots if slot.shares is None)

    @property
    def table_rows(self) -> int:
        """Rows of the fused table, padding and means included."""
        return self.encoded_rows + sum(slot.mean is not None for slot in self.slots)
