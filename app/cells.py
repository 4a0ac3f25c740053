"""Numbers that the workers of a service share, so that any of them can show the sum.

They lie in memory that forked processes have in common, a row for each worker. A worker writes
its own row only, so nothing needs a lock; a row outlives its worker, and whoever takes the
place of a dead one counts on from there.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

CELLS = 2**17
"""Numbers of one worker: far more than any spec's slots need. Unused ones take no memory."""
_BYTES = 8


class Part:
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

    def least(self) -> list[float]:
        """The least of each number that any worker has."""
        found: list[float] = self._rows.min(0).tolist()
        return found


class Cells:
    """All of them; ``worker`` says whose process this is.

    The first two of each worker say whether it is ready, and whether all have been at once.

    Every worker takes its parts in the same order, and so finds the same numbers of others.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self.worker = 0
        self._memory = mmap.mmap(-1, workers * CELLS * _BYTES)
        self._rows = np.frombuffer(self._memory, np.float64).reshape(workers, CELLS)
        self._taken = 2

    def set_ready(self, ready: bool) -> None:
        """Say whether this worker is ready."""
        self._rows[self.worker, 0] = ready
        if self._rows[:, 0].all():
            self._rows[self.worker, 1] = True

    @property
    def started(self) -> bool:
        """Whether all workers have been ready at once; a dead one does not change that."""
        return bool(self._rows[:, 1].any())

    def take(self, count: int) -> Part:
        """Set the next ``count`` numbers aside; what a dead worker left in them is kept."""
        start, self._taken = self._taken, self._taken + count
        if self._taken > CELLS:
            raise MemoryError(f"no more than {CELLS} numbers can be shared")
        return Part(self._rows[:, start : self._taken], self.worker)
