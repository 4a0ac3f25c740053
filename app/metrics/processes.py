"""Memory, CPU time and descriptors of each process of the service, out of ``/proc``.

The names are those of Prometheus' client libraries, so that usual alerts apply, with a label
``worker``. Where there is no ``/proc`` nothing is shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.workers.shared_numbers import SharedNumbers

SUPERVISOR = "supervisor"
GAUGES = {
    "process_resident_memory_bytes": "Resident memory, shared pages included",
    "process_virtual_memory_bytes": "Virtual memory",
    "process_open_fds": "Open file descriptors",
    "process_max_fds": "Open file descriptors that are allowed",
    "process_start_time_seconds": "Start of the process, in seconds since 1970",
}
CPU = "process_cpu_seconds"
_PROC = Path("/proc")


class ProcessCollector(Collector):
    """Shows every worker, and the supervisor where there is one; each is looked up when asked."""

    def __init__(self, shared: SharedNumbers) -> None:
        self._pids = shared.region("process ids", 1)
        self._pids.own[0] = os.getpid()
        self._workers = shared.workers

    def collect(self) -> Iterable[Metric]:
        gauges = {
            name: GaugeMetricFamily(name, text, labels=["worker"]) for name, text in GAUGES.items()
        }
        cpu = CounterMetricFamily(CPU, "User and system CPU time", labels=["worker"])
        for worker, pid in self._processes():
            try:
                found = measure(pid)
            except OSError:
                continue  # It is not there yet or any more, or this is not Linux.
            for name, family in gauges.items():
                if name in found:
                    family.add_metric([worker], found[name])
            cpu.add_metric([worker], found[CPU])
        return [*gauges.values(), cpu]

    def _processes(self) -> Iterable[tuple[str, int]]:
        for number, pid in enumerate(self._pids.each(), 1):
            if pid:
                yield str(number), int(pid)
        if self._workers > 1:
            yield SUPERVISOR, os.getppid()


def measure(pid: int) -> dict[str, float]:
    """Return a process' numbers by their metrics.

    Raises:
        OSError: it is not there, or is not this user's.
    """
    directory = _PROC / str(pid)
    fields = (directory / "stat").read_text().rpartition(")")[2].split()
    user, system, start, virtual, resident = (int(fields[at]) for at in (11, 12, 19, 20, 21))
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    found = {
        CPU: (user + system) / ticks,
        "process_start_time_seconds": _boot_time() + start / ticks,
        "process_virtual_memory_bytes": float(virtual),
        "process_resident_memory_bytes": float(resident * page),
        "process_open_fds": float(len(os.listdir(directory / "fd"))),
    }
    for line in (directory / "limits").read_text().splitlines():
        if line.startswith("Max open files"):
            soft = line.split()[3]
            found["process_max_fds"] = float("inf") if soft == "unlimited" else float(soft)
    return found


def _boot_time() -> float:
    for line in (_PROC / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0
