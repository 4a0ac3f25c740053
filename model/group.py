"""The processes that train one network together, as ``torchrun`` or Ray starts them.

Each holds the whole network and, unless that is sharded, the table. It reads its own share of every
batch and gives the others the distinct rows that it names and its gradients; all then take the same
step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

LONGEST_WAIT = timedelta(days=1)
"""For a process that prepares the data, or writes the bundle, alone."""


@dataclass(frozen=True, slots=True)
class Group:
    """``size`` processes, of which this one has a ``rank``; alone it needs no communication."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among those on this machine."""

    def share(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this process' part of a batch's rows."""
        return rows[self.rank :: self.size]

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace float32 tensors, of equal shapes everywhere, by their sum over all processes."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        sizes = [tensor.numel() for tensor in tensors]
        for tensor, summed in zip(tensors, torch.split(flat, sizes), strict=True):
            tensor.detach().copy_(summed.view_as(tensor))

    def all(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Return every process' one-dimensional array, of any length, by rank."""
        if self.size == 1:
            return [values]
        mine = torch.tensor(values)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(values)]))
        longest = int(max(lengths))
        padded = torch.zeros(longest, dtype=mine.dtype)
        padded[: len(mine)] = mine
        found = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(found, padded)
        return [part[: int(length)].numpy() for part, length in zip(found, lengths, strict=True)]

    def first_says(self, answer: bool) -> bool:
        """Return the first process' answer, for questions that depend on a clock."""
        if self.size == 1:
            return answer
        shared = torch.tensor([float(answer)])
        dist.broadcast(shared, 0)
        return bool(shared)

    def alike(self, text: str) -> bool:
        """Return whether all processes have the same text."""
        return len({part.tobytes() for part in self.all(np.frombuffer(text.encode(), "u1"))}) == 1

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()


ALONE = Group()


@contextmanager
def joined(alone_too: bool = False) -> Iterator[Group]:
    """Join the processes that ``torchrun`` has started, or be alone without it.

    With ``alone_too`` one process is a group as well, for what talks to one. Those that Ray has
    started are a group already, which it ends, too.
    """
    if dist.is_initialized():
        yield _group()
        return
    alone = "WORLD_SIZE" not in os.environ
    if alone and not alone_too:
        yield ALONE
        return
    # Defaults of this module's functions keep the group that is there when it is imported (an
    # optimiser imports it), and its threads with it: one that frees a tensor while the interpreter
    # ends aborts the process (pytorch#190489).
    import torch.distributed.nn  # noqa: F401

    if alone:
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    else:
        dist.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        if alone:
            yield ALONE
            return
        group = _group()
        # Whoever leaves breaks the joining of the others. So nobody leaves, as by an error that all
        # find, before the first is in, who alone tells it.
        group.wait()
        group.first_says(True)
        yield group
    finally:
        dist.destroy_process_group()


def _group() -> Group:
    return Group(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]))
