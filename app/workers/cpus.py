"""CPUs that this process may use, by its affinity and its cgroups."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def cpu_quota() -> int:
    """Return the number of CPUs that this process may use, rounded down, at least one.

    In a container that is its quota, not the cores of the host.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, int(min([allowed or 1, *_cgroup_quotas()])))


def _cgroup_quotas() -> Iterator[float]:
    """Yield the CPUs that each cgroup allows, of either version, from this process' own upwards.

    A container with a cgroup namespace sees its own group as the root. One with the host's
    namespace has a path that may not exist inside the container; then only the root counts.
    """
    own = {"": "", "cpu": ""}
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own |= {name: path.strip("/") for name in controllers.split(",") if name in own}
    roots = {
        Path("/sys/fs/cgroup"): (own[""], _quota_of_version_2),
        Path("/sys/fs/cgroup/cpu"): (own["cpu"], _quota_of_version_1),
    }
    for root, (path, quota) in roots.items():
        group = root / path
        for directory in (group, *group.parents):
            with suppress(OSError, ValueError):
                yield quota(directory)
            if directory == root:
                break


def _quota_of_version_2(group: Path) -> float:
    limit, period = (group / "cpu.max").read_text().split()
    return math.inf if limit == "max" else int(limit) / int(period)


def _quota_of_version_1(group: Path) -> float:
    limit = int((group / "cpu.cfs_quota_us").read_text())
    period = int((group / "cpu.cfs_period_us").read_text())
    return math.inf if limit < 0 else limit / period
