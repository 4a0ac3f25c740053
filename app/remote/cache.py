"""A process' cache of a vocabulary in Redis: rows of values, and known absences."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

EVICTED_TOGETHER = 1_024
"""Entries that are thrown out at a time: finding the oldest one costs a walk over the places of
those thrown out before, so it is done for many at once."""


class Cache:
    """One table (key → row) for each slot, bounded together.

    The tables are plain dicts, for the encoder to ask as it asks those of a whole vocabulary:
    remembering costs a hit nothing. A value that the vocabulary lacks has the row of OOV. When
    there are too many entries, the largest table loses its oldest ones. What an encoder itself
    keeps in a table, the rows of None and of the empty text, stays.
    """

    def __init__(self, slots: Iterable[str], limit: int) -> None:
        self.tables: dict[str, dict[Any, int]] = {slot: {} for slot in slots}
        self.limit = limit
        self.evicted = 0

    @property
    def entries(self) -> int:
        """The number of values in the cache."""
        return sum(map(len, self.tables.values()))

    def trim(self) -> None:
        """Throw out entries until there are no more than allowed."""
        excess = self.entries - self.limit
        while excess > 0:
            table = max(self.tables.values(), key=len)
            count = min(len(table), max(excess, min(EVICTED_TOGETHER, self.limit // 8)))
            oldest = [key for key in islice(table, count + 2) if key is not None and key != ""]
            for key in oldest:
                del table[key]
            self.evicted += len(oldest)
            excess -= len(oldest)
            if not oldest:
                return
