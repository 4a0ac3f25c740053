"""The memory that this process may still take."""

from __future__ import annotations

from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
"""A control group's limit and use: version 2, version 1."""


def available_memory() -> int | None:
    """Return free bytes: the machine's, or the control group's if fewer; None if unknown."""
    found = []
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    for limit, use in GROUPS:
        try:
            found.append(int(limit.read_text()) - int(use.read_text()))
        except (OSError, ValueError):
            continue
    return max(0, min(found)) if found else None


def device_memory(device: torch.device) -> int:
    """Return the free bytes of a GPU."""
    return torch.cuda.mem_get_info(device)[0]
