"""CPU time of a server, whatever processes it is made of."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def session_cpu_seconds(leader: int) -> float:
    """Return the CPU time that the processes of a session have used so far, in the kernel's ticks.

    ``leader`` began the session. What a process used that has ended since is not counted.
    """
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # It has ended.
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
