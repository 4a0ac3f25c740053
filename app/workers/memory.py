"""Memory that this process may use, by the machine and its cgroups."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def memory_limit() -> int:
    """Return the bytes that this process and its siblings may use together."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    own = ""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next(line for line in lines if line.startswith("0::"))[len("0::/") :]
    group = _ROOT / own
    limits = [each / "memory.max" for each in (group, *group.parents) if each.is_relative_to(_ROOT)]
    for path in (*limits, _ROOT / "memory" / "memory.limit_in_bytes"):
        # "max" is no limit.
        with suppress(OSError, ValueError):
            found.append(int(path.read_text()))
    return min(found)
