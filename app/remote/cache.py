"""A process' cache of a vocabulary in Redis: rows of values, and known absences."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

EVICTED_TOGETHER = 1_024
"""Entries that are removed at a time. Finding a dict's oldest entry walks over the places of those
removed before, so it is done for many at once."""


class Cache:
    """One table (key → row) for each slot, bounded together.

    The tables are plain dicts that an encoder uses like those of a whole vocabulary, so a hit costs
    nothing extra. A value that the vocabulary lacks has the row of OOV. Above the limit the largest
    table loses its oldest entries. The encoder's own entries, None and the empty text, stay;
    null values may go, since the encoder knows them without the table.
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
        """Remove entries until the limit is kept."""
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
