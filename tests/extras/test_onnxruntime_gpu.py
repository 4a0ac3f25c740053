"""A service with onnxruntime's CUDA build, of the pinned version, on a machine without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.environments import PACKAGES, ROOT
from tests.support.registry import environment_or_skip
from tests.support.serving import free_port, wait_until

pytestmark = pytest.mark.extras
PINNED = Path(__file__).with_name("onnxruntime-gpu.txt")
NO_DEVICE = {"CUDA_VISIBLE_DEVICES": "-1"}
OPTIONS = """\
import sys
import onnxruntime as ort
from app.scoring.engine import session_options
from app.scoring.engine_device import CudaDevice, DeviceOptions

chosen = CudaDevice().providers(DeviceOptions(tf32=True, arena="doubling"), 2**30)
print(ort.__version__, "CUDAExecutionProvider" in ort.get_available_providers())
options = session_options(1)
options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
try:
    ort.InferenceSession(sys.argv[1], options, providers=chosen, enable_fallback=0)
except Exception as error:
    print(str(error).splitlines()[0])
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of onnxruntime's CUDA build."""
    return environment_or_skip(PINNED, tmp_path_factory.mktemp("by-hand"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All packages of the product but its own onnxruntime."""
    directory = tmp_path_factory.mktemp("packages")
    for path in PACKAGES.iterdir():
        if not path.name.startswith("onnxruntime"):
            (directory / path.name).symlink_to(path)
    return directory


def variables(*packages: Path) -> dict[str, str]:
    return {**os.environ, **NO_DEVICE, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *packages]))}


@pytest.fixture
def start(home: Path, tiny_bundle: Path) -> Iterator[Any]:
    """Starts services of that environment; they end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(packages: Path, provider: str, port: int) -> subprocess.Popen[str]:
        words = [home / "bin" / "python", "-m", "app", "--bundle", tiny_bundle]
        started.append(
            subprocess.Popen(
                [*words, "--provider", provider, "--port", str(port)],
                env=variables(packages), text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=60)


def events(output: str) -> list[dict[str, Any]]:
    """Each line of a log is one of ours."""
    return [json.loads(line) for line in output.splitlines()]


def test_cuda_refuses_with_one_line(start: Any, others: Path) -> None:
    """It names what is missing; nothing else is an error, and nothing goes to standard output."""
    process = start(others, "cuda", free_port())
    out, log = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out == ""
    [error] = [event for event in events(log) if event["level"] == "error"]
    assert "CUDA was asked for and cannot be used: no usable CUDA device" in error["message"]
    assert "cannot be loaded" in error["message"] or "CUDA" in error["message"]
    assert len(error["message"]) < 400


def test_auto_says_why_it_is_on_the_cpu(start: Any, others: Path) -> None:
    """In the log, /ready, /model and /metrics; the provider that is listed is no proof."""
    port = free_port()
    process = start(others, "auto", port)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:

        def is_ready() -> bool:
            try:
                return client.get("/ready").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_ready, "it is ready", 120)
        for path in ("/ready", "/model"):
            shown = client.get(path).json()
            assert shown["provider"] == "CPUExecutionProvider"
            assert "no usable CUDA device" in shown["provider_fallback"]
            assert shown["gpu"] is None
        [info] = [
            line for line in client.get("/metrics").text.splitlines()
            if line.startswith("ctr_bundle_info{")
        ]  # fmt: skip
        assert 'provider_fallback="no usable CUDA device' in info
    process.terminate()
    out, log = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    [line] = [e["message"] for e in events(log) if e["message"].startswith("ready:")]
    assert "CPUExecutionProvider (not CUDA: no usable CUDA device" in line


def test_both_distributions_are_refused(start: Any) -> None:
    """With the product's onnxruntime beside it, whichever of them is imported."""
    process = start(PACKAGES, "auto", free_port())
    _, log = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "onnxruntime and onnxruntime-gpu are both installed" in log


def test_the_wheel_is_of_the_pinned_version(home: Path, others: Path, tiny_bundle: Path) -> None:
    """A session asked for on CUDA alone is refused by onnxruntime too, not run on the CPU."""
    done = subprocess.run(
        [home / "bin" / "python", "-c", OPTIONS, tiny_bundle / "score.onnx"],
        env=variables(others), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    version, problem = done.stdout.splitlines()
    assert version == f"{PINNED.read_text().strip().partition('==')[2]} True"
    assert "fallback to CPU EP has been explicitly disabled" in problem
    constraints = (ROOT / "docker" / "gpu-constraints.txt").read_text()
    assert PINNED.read_text().strip() in constraints
