"""Numbers in memory that the workers of a service share, so that any of them can show the sum.

Each worker has a row of its own and writes only that row, so counting needs no lock. A row outlives
its worker: the successor of a dead worker continues from its numbers.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from secrets import token_hex
from struct import Struct

import msgspec
import numpy as np
from numpy.typing import NDArray

MOST_NUMBERS = 2**17
"""Numbers of one worker: far more than any spec's slots need. Unused ones take no memory."""
NAMES_BYTES = 2**22
_NUMBER_BYTES = 8
_LENGTH = Struct("=Q")
_Places = dict[str, tuple[int, int]]
"""The start and the length of each region, by its name."""


class Region:
    """Some of the numbers of all workers, under one name.

    ``own`` and ``array`` are this worker's numbers, to be read and written.
    """

    def __init__(self, rows: NDArray[np.float64], worker: int) -> None:
        self._rows = rows
        self.array: NDArray[np.float64] = rows[worker]
        # Python reads and writes one number faster through a memoryview than through an array.
        self.own: memoryview[float] = memoryview(rows[worker]).cast("B").cast("d")

    def total(self) -> list[float]:
        """Each number, added up over the workers."""
        found: list[float] = self._rows.sum(0).tolist()
        return found

    def total_of(self, first: float) -> list[float]:
        """Each number, added up over the workers whose first number is ``first``."""
        found: list[float] = self._rows[self._rows[:, 0] == first].sum(0).tolist()
        return found

    def beside(self, first: float) -> float | None:
        """The second number of a worker whose first number is ``first``, if there is one."""
        found = self._rows[self._rows[:, 0] == first]
        return float(found[0, 1]) if len(found) else None

    def least(self) -> list[float]:
        """Each number's minimum over the workers."""
        found: list[float] = self._rows.min(0).tolist()
        return found

    def most(self) -> list[float]:
        """Each number's maximum over the workers."""
        found: list[float] = self._rows.max(0).tolist()
        return found

    def each(self) -> list[float]:
        """The first number of every worker."""
        found: list[float] = self._rows[:, 0].tolist()
        return found

    def equal(self) -> bool:
        """True if all workers have the same numbers."""
        return bool((self._rows == self._rows[0]).all())


def _nameless_file() -> int:
    """Open a file to lock: in memory where the system can, as a container may be read-only."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("lock")
    file, path = tempfile.mkstemp()
    os.unlink(path)
    return file


@contextmanager
def _locked(file: int) -> Iterator[None]:
    fcntl.lockf(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN)


class SharedNumbers:
    """The numbers of all workers, in named regions; ``worker`` is this process' worker."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self.worker = 0
        self.service = token_hex(8)
        """A name that all workers of this service know, and no other service has."""
        memory = mmap.mmap(-1, NAMES_BYTES + workers * MOST_NUMBERS * _NUMBER_BYTES)
        self._names = memoryview(memory)[:NAMES_BYTES]
        numbers = np.frombuffer(memory, np.float64, offset=NAMES_BYTES)
        self._rows = numbers.reshape(workers, MOST_NUMBERS)
        self._lock, self._turn = _nameless_file(), _nameless_file()
        for file in (self._lock, self._turn):
            weakref.finalize(self, os.close, file)
        self._ready = self.region("ready", 1)
        self._started = self.region("started", 1)

    def region(self, name: str, count: int) -> Region:
        """Return the region of ``count`` numbers with a name, the same one in every worker.

        Raises:
            MemoryError: there is no room for it.
        """
        with _locked(self._lock):
            (length,) = _LENGTH.unpack_from(self._names)
            known = self._names[_LENGTH.size : _LENGTH.size + length]
            places = msgspec.msgpack.decode(known, type=_Places) if length else {}
            start, size = places.get(name, (0, 0))
            if size != count:
                start = max(map(sum, places.values()), default=0)
                places[name] = start, count
                encoded = msgspec.msgpack.encode(places)
                if start + count > MOST_NUMBERS or len(encoded) > NAMES_BYTES - _LENGTH.size:
                    raise MemoryError(f"{name!r} does not fit into {MOST_NUMBERS} shared numbers")
                _LENGTH.pack_into(self._names, 0, len(encoded))
                self._names[_LENGTH.size : _LENGTH.size + len(encoded)] = encoded
        return Region(self._rows[:, start : start + count], self.worker)

    def turn(self) -> AbstractContextManager[None]:
        """Keep the other workers out of what one of them does for all; a dead one's turn ends."""
        return _locked(self._turn)

    def begin_worker(self, worker: int) -> None:
        """Make this process, a fork, that of a worker that is not ready yet."""
        self.worker = worker
        self._ready, self._started = self.region("ready", 1), self.region("started", 1)
        self._ready.own[0] = 0
        self.region("begun", 1).own[0] += 1

    @property
    def restarts(self) -> int:
        """Workers that took the place of a dead one."""
        begun = self.region("begun", 1).each()
        return int(sum(max(0.0, times - 1) for times in begun))

    def set_ready(self) -> None:
        """Note that this worker is ready."""
        self._ready.own[0] = 1
        if all(self._ready.least()):
            self._started.own[0] = 1

    @property
    def others_ready(self) -> bool:
        """True if a worker beside this one, which is not, is ready, or was when it died."""
        return any(self._ready.total())

    @property
    def started(self) -> bool:
        """True once all workers have been ready at the same time, even if one has died since."""
        return any(self._started.total())
