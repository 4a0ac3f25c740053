"""The numbers of processes are those that the kernel gives."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from app.metrics.processes import CPU, GAUGES, ProcessCollector, measure
from app.workers.shared_numbers import SharedNumbers

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")


def test_this_process_is_measured() -> None:
    """Memory, descriptors, start and CPU time agree with what else tells them."""
    found = measure(os.getpid())
    assert set(found) == {*GAUGES, CPU}
    assert found["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 2**20 < found["process_resident_memory_bytes"] < found["process_virtual_memory_bytes"]
    assert 0 < time.time() - found["process_start_time_seconds"] < 86_400
    assert abs(found[CPU] - time.process_time()) < 5
    with Path("/dev/null").open():
        assert measure(os.getpid())["process_open_fds"] == found["process_open_fds"] + 1


def test_each_worker_has_its_label() -> None:
    """Workers are numbered from 1; one that has not begun, and one that is gone, are left out."""
    shared = SharedNumbers(3)
    collector = ProcessCollector(shared)
    shared.begin_worker(1)
    shared.region("process ids", 1).own[0] = 2**22 + 1
    for family in collector.collect():
        workers = [sample.labels["worker"] for sample in family.samples]
        assert workers == ["1", "supervisor"], family.name
