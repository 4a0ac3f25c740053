"""The trainer takes its share of the CPUs, and its threads do not spin for long."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model import __main__ as command
from model.config import TrainConfig
from model.threads import SPINS, allowed, bound_spinning, own_cpus
from tests.support.starting import run

pytestmark = pytest.mark.slow
LIBRARY = Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"
OPENMP = f"import ctypes; ctypes.CDLL({str(LIBRARY)!r})"
"""Loads the OpenMP of torch, without the seconds that importing all of torch takes."""


@pytest.mark.parametrize(
    ("cpus", "processes", "own"), [(8, None, 8), (8, "1", 8), (8, "3", 2), (2, "4", 1)]
)
def test_processes_on_a_machine_share_the_quota(
    monkeypatch: pytest.MonkeyPatch, cpus: int, processes: str | None, own: int
) -> None:
    """Each of torchrun's processes takes its part of the quota, at least one CPU."""
    monkeypatch.setattr("model.threads.cpu_quota", lambda: cpus)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert own_cpus() == own


def test_the_command_takes_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work of torch outside of training (calibration, parity) has the same limit of threads."""
    monkeypatch.setattr("model.threads.cpu_quota", lambda: 3)
    for name in ("LOCAL_WORLD_SIZE", "OMP_THREAD_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(command.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(sys, "argv", ["model", "evaluate", "no-such-bundle", "no-such-file"])
    assert command.main() == 1
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("limit", "threads"), [(None, 3), ("2", 2), ("8", 3), ("0", 3), ("two", 3), ("", 3)]
)
def test_openmp_may_allow_fewer_threads(
    monkeypatch: pytest.MonkeyPatch, limit: str | None, threads: int
) -> None:
    """The settings and the manifest have the threads that there are."""
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    if limit is not None:
        monkeypatch.setenv("OMP_THREAD_LIMIT", limit)
    assert allowed(3) == threads
    assert TrainConfig(threads=3).thread_count() == threads


def test_a_product_in_bfloat16_is_whole_under_a_limit_of_threads() -> None:
    """oneDNN leaves out the parts of threads that it counts on and that are not there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1"}
    done = run("tests.model.product_in_bfloat16", env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, str(SPINS)),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_the_environment_decides_first(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], found: str | None
) -> None:
    """A limit or a policy that the user has set stays as it is."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    bound_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == found


@pytest.mark.skipif(sys.platform != "linux", reason="torch has another OpenMP here")
@pytest.mark.parametrize(
    "program",
    ["import model.training.fit", f"import tests.conftest; {OPENMP}", f"import model; {OPENMP}"],
    ids=["trainer", "tests", "callers"],
)
def test_openmp_has_the_limit(program: str) -> None:
    """OpenMP itself reports the limit: in the trainer, the tests, and for callers from Python."""
    left = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=left | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in done.stderr
