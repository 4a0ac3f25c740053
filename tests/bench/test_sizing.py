"""The benchmark of CPU time by network and list length."""

from __future__ import annotations

import subprocess
import sys

import pytest

from model.config import SHALLOW
from tests.bench.sizing import LAYERS, configs
from tests.support.serving import ROOT

pytestmark = pytest.mark.slow


def test_deep_networks_are_measured_for_each_choice_of_layers() -> None:
    """Layers cost time; a network without any is measured once."""
    found = [(config.network, config.hidden) for config in configs(["lr", "deepfm"])]
    assert found == [("lr", LAYERS[0]), *(("deepfm", hidden) for hidden in LAYERS)]
    assert "lr" in SHALLOW


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.timeout(600)  # It exports a million table rows.
def test_a_request_has_its_cpu_time() -> None:
    """A table with a row for the network, and more time for longer lists."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.sizing", "lr", "--seconds", "0.1"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    cells = done.stdout.splitlines()[-1].strip("| ").split(" | ")
    assert cells[:2] == ["lr", "–"]
    figures = [float(cell) for cell in cells[2:]]
    assert 0 < figures[0] < figures[-1]
