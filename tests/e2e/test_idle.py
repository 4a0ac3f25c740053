"""A service without requests sleeps."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.support.serving import Service, workers_of

pytestmark = pytest.mark.e2e
SECONDS = 5.0
MOST_WAKE_UPS = 8.0
"""Wake-ups a second of a process, all its threads together: each costs some 0.1 ms of CPU."""


def wake_ups(pid: int) -> int:
    """The number of times that the threads of a process have waited until now."""
    found = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        (number,) = re.findall(r"^voluntary_ctxt_switches:\s*(\d+)", status.read_text(), re.M)
        found += int(number)
    return found


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
    before = {pid: wake_ups(pid) for pid in processes(service)}
    assert len(before) == (1 if workers == 1 else 1 + workers)
    start = time.monotonic()
    time.sleep(SECONDS)
    rates = {
        pid: (wake_ups(pid) - count) / (time.monotonic() - start) for pid, count in before.items()
    }
    assert max(rates.values()) <= MOST_WAKE_UPS, rates
