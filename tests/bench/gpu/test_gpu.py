"""The GPU's check refuses to measure a CPU, and its rehearsal runs all of it on one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.bundle.bundle import Bundle
from app.features.encoder import Encoder
from app.scoring.engine import Engine, cuda_problem
from app.scoring.engine_device import HostDevice
from model.training.device import cuda_problem as torch_problem
from tests.bench.gpu import __main__ as command
from tests.bench.gpu import engine
from tests.bench.serving import gpu as serving
from tests.bench.training import __main__ as training
from tests.bench.training import gpu as training_gpu
from tests.support.serving import ROOT, environment

pytestmark = pytest.mark.slow
without_cuda = pytest.mark.skipif(
    cuda_problem() is None or torch_problem() is None, reason="this machine has CUDA"
)


def ran(*words: object, timeout: float = 590) -> subprocess.CompletedProcess[str]:
    """Run a module as its script does."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=ROOT, env=environment(),
        capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


@without_cuda
def test_it_refuses_without_cuda(tmp_path: Path) -> None:
    """Exit code 2, one line that says why, and no file of figures."""
    out = tmp_path / "figures.json"
    ended = ran("tests.bench.gpu", "--json", out)
    assert ended.returncode == command.REFUSED
    assert ended.stderr.startswith("gpu-check: refused: CUDA cannot be used here: onnxruntime: ")
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""
    assert not out.exists()


@without_cuda
def test_each_part_refuses_without_cuda(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So does each of the commands that it is made of."""
    out = str(tmp_path / "figures.json")
    assert engine.main(["--json", out]) == engine.REFUSED
    assert serving.main(["--gpu", "--json", out]) == serving.REFUSED
    assert training.main(["--gpu", "--json", out]) == training.REFUSED
    assert capsys.readouterr().err.count("refused: CUDA cannot be used here: ") == 3
    assert not Path(out).exists()


def test_the_figures_are_of_the_engines_given(tiny_bundle: Path) -> None:
    """Over the CPU in a device's place: parity, a time for each size and way, bounds, memory."""
    figures = engine.check(tiny_bundle, HostDevice(), repeats=3)
    assert figures["provider"] == "CPUExecutionProvider"
    assert max(figures["worst_logit_difference_from_cpu"].values()) <= figures["tolerance"]
    assert figures["worst_logit_difference_from_cpu"].keys() == {
        "graphs", "binding", "chosen", "plain", "cpu"
    }  # fmt: skip
    assert len(figures["latency"]) == 2 * len(engine.ROWS) - 1
    times = [time for each in figures["latency"].values() for time in each.values()]
    assert len(times) == 5 * len(figures["latency"])
    assert min(times) > 0
    assert set(figures["index_out_of_range_refused"].values()) == {True}
    assert figures["rows_per_second"]["graphs"].keys() == {"1", "2", "4"}
    assert figures["without_memory"].keys() == {str(limit) for limit in engine.TIGHT_BYTES}


def test_a_difference_is_seen(tiny_bundle: Path) -> None:
    """An engine of other scores is as far from the CPU's as its scores are."""
    bundle = Bundle.open(tiny_bundle)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    words = (bundle.graph, bundle.vocabulary.layout, *encoder.shapes)
    cpu = Engine(*words, provider="cpu")

    def further(batch: engine.Batch) -> engine.Scores:
        found = cpu.score(batch)
        return found._replace(logit=found.logit + 0.5)

    ways = {"off": engine.Way(further), "cpu": engine.Way(cpu.score)}
    figures = engine.compare(ways, bundle, encoder, repeats=1)
    assert figures["worst_logit_difference_from_cpu"]["off"] == pytest.approx(0.5, abs=1e-3)
    assert figures["worst_logit_difference_from_cpu"]["cpu"] == 0


def test_a_part_that_does_not_end_is_ended(tmp_path: Path) -> None:
    """The others keep their time; what it began ends too, and what it wrote is kept."""
    code = (
        "import pathlib, subprocess, sys, time; "
        f"pathlib.Path({str(tmp_path / 'slow.json')!r}).write_text('{{\"kept\": 1}}'); "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "time.sleep(600)"
    )
    began = time.monotonic()
    found, problem = command.run(command.Part("slow", ["-c", code], "torch"), tmp_path, 3)
    assert time.monotonic() - began < 60
    assert problem == "not ended after 3 s"
    assert found == {"kept": 1}


def test_a_part_that_fails_is_told(tmp_path: Path) -> None:
    """By its exit code and the last line that it wrote."""
    part = command.Part("bad", ["-c", "raise SystemExit('no room')"], "torch")
    assert command.run(part, tmp_path, 60) == ({}, "ended with 1: no room")


def test_unknown_parts_are_refused() -> None:
    """Nothing is measured."""
    with pytest.raises(SystemExit, match="2"):
        command.arguments(["--only", "engin"])


def test_losses_beyond_rounding_are_no_parity() -> None:
    """Both losses are kept, and their difference decides."""
    near = training_gpu.parity({"train_loss": 0.5}, {"train_loss": 0.501})
    assert near["within"]
    assert not training_gpu.parity({"train_loss": 0.5}, {"train_loss": 0.503})["within"]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_whole_command_is_rehearsed(tiny_bundle: Path, tmp_path: Path) -> None:
    """Every part on the CPU in the GPU's place; the figures say that they are no GPU's."""
    out = tmp_path / "figures.json"
    words = ["--device", "cpu", "--quick", "--bundle", tiny_bundle, "--json", out]
    ended = ran("tests.bench.gpu", *words, "--seconds", 900, timeout=1100)
    found = json.loads(out.read_text())
    assert ended.returncode == 0, (found["problems"], ended.stderr)
    assert json.loads(ended.stdout) == found
    assert found["rehearsal"] is True
    assert "no figure of a GPU" in ended.stderr
    assert found["problems"] == []
    assert found["left_out"] == {}
    parts = found["parts"]
    assert parts.keys() == {"engine", "training", "serving", "tests"}
    for name in ("engine", "training", "serving"):
        assert parts[name]["rehearsal"] is True
    device = parts["serving"]["servers"]["product_on_device"]
    assert device["provider"] == "CPUExecutionProvider"
    assert min(device["predict"][each]["rate"] for each in ("1", "8")) > 0
    assert device["rank1000_ms"] > 0
    assert parts["training"]["gpu"]["parity"]["difference"] == 0
    rates = [each["rows_per_second"] for each in parts["training"]["gpu"]["rates"].values()]
    assert min(min(each.values()) for each in rates) > 0
    assert parts["tests"]["tests"] > parts["tests"]["skipped"]
    assert parts["tests"]["failed"] == []
