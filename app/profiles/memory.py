"""Profiles that a process remembers for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

ENTRY_BYTES = 250
"""Bytes that an entry takes beside its key and its values."""


class ProfileMemory:
    """Values by key, each for so many seconds, together within so many bytes.

    What was remembered first is forgotten first.
    """

    def __init__(self, seconds: float, most_bytes: int, clock: Callable[[], float]) -> None:
        self._seconds, self._most_bytes, self._clock = seconds, most_bytes, clock
        self._entries: OrderedDict[str, tuple[float, bytes | None]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, keys: Sequence[str]) -> dict[str, bytes | None]:
        """Return what is remembered of these keys."""
        now = self._clock()
        found = {}
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None and entry[0] > now:
                found[key] = entry[1]
        return found

    def add(self, values: Mapping[str, bytes | None]) -> None:
        """Remember values, or that there are none; forget what is old or too much."""
        now = self._clock()
        for key, each in values.items():
            self._forget(key)
            self._entries[key] = (now + self._seconds, each)
            self._bytes += _size(key, each)
        while self._entries:
            oldest = next(iter(self._entries))
            if self._bytes <= self._most_bytes and self._entries[oldest][0] > now:
                break
            self._forget(oldest)

    def _forget(self, key: str) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self._bytes -= _size(key, entry[1])


def _size(key: str, values: bytes | None) -> int:
    return ENTRY_BYTES + len(key) + len(values or b"")
