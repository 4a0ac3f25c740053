"""Places that requests may still read after they were given up."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar
from weakref import ReferenceType, ref

Thing = TypeVar("Thing")


class Lease:
    """Held by a request for as long as it may read what was there when it took the lease."""

    __slots__ = ("__weakref__",)


class Leases(Generic[Thing]):
    """Things that were given up, each until no lease is held from before that."""

    def __init__(self) -> None:
        self._current: Lease | None = None
        # In the order of time: leases, and between them what was given up after each.
        self._line: deque[ReferenceType[Lease] | list[Thing]] = deque()

    def lease(self) -> Lease:
        """Return a lease: the same one until something is given up."""
        if self._current is None:
            self._current = Lease()
            self._line.append(ref(self._current))
        return self._current

    def give_up(self, thing: Thing) -> None:
        """Have a thing freed once those who may know of it are done."""
        self._current = None
        if self._line and isinstance(self._line[-1], list):
            self._line[-1].append(thing)
        else:
            self._line.append([thing])

    def freed(self) -> list[Thing]:
        """Return the things that nobody may know of any longer, each once."""
        found: list[Thing] = []
        while self._line:
            first = self._line[0]
            if isinstance(first, list):
                found += first
            elif first() is not None:
                break
            self._line.popleft()
        return found
