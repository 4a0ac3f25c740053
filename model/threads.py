"""Threads of the trainer: their number, and the way they wait for each other."""

from __future__ import annotations

import os

from app.workers.cpus import cpu_quota

SPINS = 10_000
"""Looks at a barrier before a thread sleeps, half a millisecond; GNU OpenMP takes 300,000.

Fewer cost more than 3 % where nothing else runs; more, and training collapses now and then."""


def own_cpus() -> int:
    """Return the CPUs of this process: its share of the quota among ``torchrun``'s processes."""
    return max(1, cpu_quota() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def allowed(threads: int) -> int:
    """Return so many threads, or the fewer that ``OMP_THREAD_LIMIT`` allows.

    OpenMP gives no more, whatever is asked for. oneDNN cuts a product in bfloat16 for those that
    were asked for, and leaves the parts of those that are not there as it found the memory.
    """
    limit = os.environ.get("OMP_THREAD_LIMIT", "")
    return min(threads, int(limit)) if limit.isdecimal() and int(limit) else threads


def limit_torch() -> None:
    """Let torch use the CPUs of this process; by itself it takes all of the host, whatever the
    quota of a container."""
    import torch

    torch.set_num_threads(allowed(own_cpus()))


def bound_spinning() -> None:
    """Let a thread sleep that waits long for the others, unless the environment says otherwise.

    A step has some eighty barriers. Where other programs use the CPUs, a thread waits at each for
    one that the system has put aside; as long as it spins, it takes the time that the other needs.
    GNU OpenMP reads the limit once, when torch is loaded: call this before.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
