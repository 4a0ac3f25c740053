"""Numbers that the workers of a service share, so that any of them can show the sum.

They lie in memory that forked processes have in common, a row for each worker. A worker writes
its own row only, so counting needs no lock; a row outlives its worker, and whoever takes the
place of a dead one counts on from there.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
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


class Region:
    """Some of the numbers: ``own`` and ``array`` are this worker's, to be read and written."""

    def __init__(self, rows: NDArray[np.float64], worker: int) -> None:
        self._rows = rows
        self.array: NDArray[np.float64] = rows[worker]
        # Python reads and writes one number faster through a memoryview than through an array.
        self.own: memoryview[float] = memoryview(rows[worker]).cast("B").cast("d")

    def total(self) -> list[float]:
        """The numbers of all workers, added up."""
        found: list[float] = self._rows.sum(0).tolist()
        return found

    def total_of(self, first: float) -> list[float]:
        """The numbers, added up, of those workers whose first one is ``first``."""
        found: list[float] = self._rows[self._rows[:, 0] == first].sum(0).tolist()
        return found

    def least(self) -> list[float]:
        """The least of each number that any worker has."""
        found: list[float] = self._rows.min(0).tolist()
        return found

    def each(self) -> list[float]:
        """The first number of every worker."""
        found: list[float] = self._rows[:, 0].tolist()
        return found

    def equal(self) -> bool:
        """Whether all workers have the same numbers."""
        return bool((self._rows == self._rows[0]).all())


def _nameless_file() -> int:
    """Open a file for locks: each process that locks it holds a lock of its own.

    Where the system can, it lies in memory: a container may have no place to write.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create("lock")
    file, path = tempfile.mkstemp()
    os.unlink(path)
    return file


class SharedNumbers:
    """All of them, by name; ``worker`` says whose process this is."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self.worker = 0
        memory = mmap.mmap(-1, NAMES_BYTES + workers * MOST_NUMBERS * _NUMBER_BYTES)
        self._names = memoryview(memory)[:NAMES_BYTES]
        numbers = np.frombuffer(memory, np.float64, offset=NAMES_BYTES)
        self._rows = numbers.reshape(workers, MOST_NUMBERS)
        self._lock = _nameless_file()
        weakref.finalize(self, os.close, self._lock)
        self._ready = self.region("ready", 1)
        self._started = self.region("started", 1)

    def region(self, name: str, count: int) -> Region:
        """Return the ``count`` numbers of a name, the same ones whoever asks for them."""
        with self._locked():
            (length,) = _LENGTH.unpack_from(self._names)
            known = self._names[_LENGTH.size : _LENGTH.size + length]
            places = msgspec.msgpack.decode(known, type=_Places) if length else {}
            start, size = places.get(name, (0, 0))
            if size != count:
                start = max((first + size for first, size in places.values()), default=0)
                places[name] = start, count
                raw = msgspec.msgpack.encode(places)
                if start + count > MOST_NUMBERS or len(raw) > NAMES_BYTES - _LENGTH.size:
                    raise MemoryError(f"no more than {MOST_NUMBERS} numbers can be shared")
                _LENGTH.pack_into(self._names, 0, len(raw))
                self._names[_LENGTH.size : _LENGTH.size + len(raw)] = raw
        return Region(self._rows[:, start : start + count], self.worker)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def begin_worker(self, worker: int) -> None:
        """Be a worker's process from now on, which is not ready yet."""
        self.worker = worker
        self._ready, self._started = self.region("ready", 1), self.region("started", 1)
        self._ready.own[0] = 0

    def set_ready(self) -> None:
        """Say that this worker is ready."""
        self._ready.own[0] = 1
        if all(self._ready.least()):
            self._started.own[0] = 1

    @property
    def started(self) -> bool:
        """Whether all workers have been ready at once; a dead one does not change that."""
        return any(self._started.total())
