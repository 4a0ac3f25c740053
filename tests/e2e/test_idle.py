"""A service without requests sleeps."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.support.serving import Service, workers_of

pytestmark = pytest.mark.e2e
SECONDS = 5.0
IN_A_ROW = 2
"""Times of so many seconds, one after the other, in which all processes sleep: what a service does
of itself less often than every five seconds is seen, too."""
WINDOWS = 6
"""Most such times that are looked at. What a service does of itself it does in each. Beside it,
the first one has the end of its start; and where other programs hold up a thread that has the
interpreter, the others look for it every 50 µs, dozens of times in a row."""
MOST_WAKE_UPS = 8.0
"""Wake-ups a second of a process, all its threads together: each costs some 0.1 ms of CPU."""
MOST_CPU = 0.003
"""Part of a CPU that a process takes."""


def wake_ups(pid: int) -> int:
    """The number of times that the threads of a process have waited until now."""
    number = re.compile(r"^voluntary_ctxt_switches:\s*(\d+)", re.M)
    return sum(int(number.findall(text)[0]) for text in of_threads(pid, "status"))


def cpu_seconds(pid: int) -> float:
    """The CPU time that the threads of a process have taken until now."""
    return sum(int(text.split()[0]) for text in of_threads(pid, "schedstat")) / 1e9


def of_threads(pid: int, name: str) -> Iterator[str]:
    """What a file of the system says of each thread of a process."""
    for file in Path(f"/proc/{pid}/task").glob(f"*/{name}"):
        # One may end as its file is read.
        with suppress(FileNotFoundError, ProcessLookupError):
            yield file.read_text()


def processes(service: Service) -> list[int]:
    """The service's process and its workers'."""
    return [service.process.pid, *workers_of(service)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_idle_service_sleeps(
    start_service: StartService, tiny_bundle: Path, tmp_path: Path, workers: int
) -> None:
    """No process wakes up more than some times a second, while it watches a directory."""
    shutil.copytree(tiny_bundle, tmp_path / tiny_bundle.name)
    service = start_service(tmp_path, workers=workers)
    pids = processes(service)
    assert len(pids) == (1 if workers == 1 else 1 + workers)
    seen: list[dict[int, tuple[float, float]]] = []
    for _ in range(WINDOWS):
        seen.append(taken(pids))
        if len(seen) >= IN_A_ROW and all(map(sleeps, seen[-IN_A_ROW:])):
            return
    raise AssertionError(f"wake-ups a second and parts of a CPU: {seen}")


def taken(pids: list[int]) -> dict[int, tuple[float, float]]:
    """Each process' wake-ups a second and its part of a CPU, over some seconds."""
    before = {pid: (wake_ups(pid), cpu_seconds(pid)) for pid in pids}
    start = time.monotonic()
    time.sleep(SECONDS)
    after = {pid: (wake_ups(pid), cpu_seconds(pid)) for pid in pids}
    seconds = time.monotonic() - start
    return {
        pid: ((after[pid][0] - woken) / seconds, (after[pid][1] - cpu) / seconds)
        for pid, (woken, cpu) in before.items()
    }


def sleeps(rates: dict[int, tuple[float, float]]) -> bool:
    """Tell whether all processes kept within both bounds in the same seconds."""
    return all(woken <= MOST_WAKE_UPS and cpu <= MOST_CPU for woken, cpu in rates.values())
