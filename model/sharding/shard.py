"""The rows of a table that one process of a group holds, and their way to the first process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed as dist

from model.group import ALONE, Group

PIECE_BYTES = 2**23
"""About what a process holds of another one's rows at any time."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One process' part of a table of ``rows``: consecutive ones, as many as in every other.

    Alone, a process holds all of them. The cut is that of TorchRec's row-wise sharding: blocks of
    ``ceil(rows / processes)`` rows, the last ones shorter, or empty.
    """

    rows: int
    group: Group = ALONE

    @property
    def block(self) -> int:
        """Rows of every process but the last ones."""
        return -(-self.rows // self.group.size)

    def of(self, rank: int) -> range:
        """Return the rows of a process."""
        start = min(rank * self.block, self.rows)
        return range(start, min(start + self.block, self.rows))

    @property
    def own(self) -> range:
        """The rows of this process."""
        return self.of(self.group.rank)

    @property
    def taken(self) -> slice:
        """The same as what an array of all rows is cut by."""
        return slice(self.own.start, self.own.stop)

    def within(self, first: int, size: int) -> range:
        """Return those of ``size`` rows from ``first`` on that are this process' own."""
        start = max(first, self.own.start)
        return range(start, max(start, min(first + size, self.own.stop)))

    def sums(self, *values: float) -> list[float]:
        """Return the sum of each number over all processes."""
        if self.group.size == 1:
            return [*values]
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        found: list[float] = total.tolist()
        return found

    def to_first(self, held: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Yield all rows in order, some at a time, in the first process; send them in the others.

        ``held`` [own, ...] are this process' rows. All processes iterate to the end at once; the
        others are given nothing.
        """
        me = self.group.rank
        row_bytes = held.dtype.itemsize * math.prod(held.shape[1:])
        step = max(1, PIECE_BYTES // row_bytes)
        for rank in range(self.group.size):
            if me not in (0, rank):
                continue
            rows = len(self.of(rank))
            for start in range(0, rows, step):
                count = min(step, rows - start)
                if me == rank == 0:
                    yield held[start : start + count]
                elif me == rank:
                    piece = np.ascontiguousarray(held[start : start + count])
                    dist.send(torch.from_numpy(piece.reshape(-1).view(np.uint8)), 0)
                else:
                    found = np.empty((count, *held.shape[1:]), held.dtype)
                    dist.recv(torch.from_numpy(found.reshape(-1).view(np.uint8)), rank)
                    yield found
