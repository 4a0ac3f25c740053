"""The CUDA check refuses to measure a CPU, and what it measures is what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from app.bundle.bundle import Bundle
from app.features.encoder import Encoder
from app.scoring.engine import Engine, cuda_problem
from tests.bench import gpu
from tests.support.serving import ROOT, environment

pytestmark = pytest.mark.slow


@pytest.mark.skipif(cuda_problem() is None, reason="this machine has CUDA")
def test_it_refuses_without_cuda(tmp_path: Path) -> None:
    """Exit code 2, one line that says why, and no file of figures."""
    out = tmp_path / "figures.json"
    ended = subprocess.run(
        [sys.executable, "-m", "tests.bench.gpu", "--json", str(out)],
        cwd=ROOT, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == gpu.REFUSED
    assert "gpu-check: refused: CUDA cannot be used here" in ended.stderr
    assert ended.stdout == ""
    assert not out.exists()


def test_the_figures_are_of_the_engines_given(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over two engines of one graph: no difference, a time for each size, bad indices refused."""
    monkeypatch.setattr(gpu, "REPEATS", 10)
    bundle = Bundle.open(tiny_bundle)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    layout = bundle.vocabulary.layout
    shapes = encoder.context.shape, encoder.candidate.shape
    first, second = (Engine(bundle.graph, layout, *shapes, provider="cpu") for _ in range(2))
    figures = gpu.check(first, second, bundle, encoder)
    assert figures["worst_logit_difference_from_cpu"] == 0
    assert len(figures["latency"]) == 2 * len(gpu.ROWS) - 1
    assert all(np.isfinite(list(times.values())).all() for times in figures["latency"].values())
    assert set(figures["index_out_of_range_refused"].values()) == {True}
