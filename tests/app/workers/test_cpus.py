"""CPUs are counted by what this process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.workers import cpus
from app.workers.cpus import cpu_quota

V1 = "sys/fs/cgroup/cpu"
V2 = "sys/fs/cgroup"
SERVICE = {"proc/self/cgroup": "0::/system.slice/ctr.service\n"}
CONTAINER = {"proc/self/cgroup": "4:cpu,cpuacct:/docker/0a\n0::/docker/0a\n"}


@pytest.mark.parametrize(
    ("files", "cores", "quota"),
    [
        ({f"{V2}/cpu.max": "200000 100000\n"}, 16, 2),
        ({f"{V2}/cpu.max": "150000 100000\n"}, 16, 1),
        ({f"{V2}/cpu.max": "50000 100000\n"}, 16, 1),
        ({f"{V2}/cpu.max": "max 100000\n"}, 16, 16),
        ({f"{V2}/cpu.max": "800000 100000\n"}, 4, 4),
        ({f"{V2}/cpu.max": "rubbish"}, 3, 3),
        ({f"{V1}/cpu.cfs_quota_us": "300000\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, 16, 3),
        ({f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, 5, 5),
        ({f"{V1}/cpu.cfs_quota_us": "300000\n"}, 6, 6),
        ({**SERVICE, f"{V2}/system.slice/ctr.service/cpu.max": "200000 100000\n"}, 16, 2),
        ({**SERVICE, f"{V2}/system.slice/cpu.max": "500000 100000\n",
          f"{V2}/system.slice/ctr.service/cpu.max": "max 100000\n"}, 16, 5),
        ({**SERVICE, f"{V2}/system.slice/other.service/cpu.max": "200000 100000\n"}, 16, 16),
        ({"proc/self/cgroup": "0::/system.slice:cri-containerd:0a\n",
          f"{V2}/system.slice:cri-containerd:0a/cpu.max": "200000 100000\n"}, 16, 2),
        ({**CONTAINER, f"{V1}/docker/0a/cpu.cfs_quota_us": "250000\n",
          f"{V1}/docker/0a/cpu.cfs_period_us": "100000\n"}, 16, 2),
        ({**CONTAINER, f"{V1}/cpu.cfs_quota_us": "400000\n",
          f"{V1}/cpu.cfs_period_us": "100000\n"}, 16, 4),
        ({**CONTAINER, f"{V2}/cpu.max": "300000 100000\n"}, 16, 3),
        ({"proc/self/cgroup": "0::/../outside\n", f"{V2}/cpu.max": "200000 100000\n"}, 16, 2),
        ({}, 7, 7),
    ],
)  # fmt: skip
def test_threads_follow_the_quota_not_the_machine(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    cores: int,
    quota: int,
) -> None:
    """The quota is the least that the affinity and the cgroups of either version allow, or 1."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(cpus, "Path", lambda text: tmp_path / text.lstrip("/"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores - pid)))
    assert cpu_quota() == quota


def test_without_affinity_the_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that does not tell the affinity has the quota of its cores, or one CPU."""
    monkeypatch.setattr(cpus, "_cgroup_quotas", list)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cpu_quota() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu_quota() == 1


def test_this_process_has_a_cpu_and_no_more_than_its_affinity() -> None:
    """The count of the process that asks, on the system as it is."""
    assert 1 <= cpu_quota() <= len(os.sched_getaffinity(0))
