"""A command that is run to its end while its memory, and that of a Ray's workers, is watched."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.bench.training.memory import anonymous
from tests.support.environments import ROOT
from tests.support.ray_cluster import Cluster

PINNED = ROOT / "tests" / "extras" / "ray.txt"
LOOK_SECONDS = 0.05
MIB = 2**20


class Measured(NamedTuple):
    """One run: seconds of the whole command, and the most memory of command and worker, in MiB."""

    seconds: float
    driver_mib: float
    worker_mib: float


def watched(ray: Cluster, words: Sequence[object], workers: int | None, doing: str) -> Measured:
    """Run a command, on so many workers of Ray or without it, looking at its memory.

    Workers count while they run a function named ``doing``, if that is not empty.
    """
    if workers is not None:
        words = [*words, "--cluster", ray.address, "--workers", workers]
    driver = worker = 0
    start = time.monotonic()
    with subprocess.Popen(
        ray.command(*words), cwd=ROOT, env=ray.environment(), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        while process.poll() is None:
            driver = max(driver, anonymous(process.pid))
            for pid in ray.workers(doing):
                worker = max(worker, anonymous(pid))
            time.sleep(LOOK_SECONDS)
        _, stderr = process.communicate()
    if process.returncode:
        raise SystemExit(stderr)
    return Measured(time.monotonic() - start, driver / MIB, worker / MIB)
