"""The export compares the graph with the network, row by row, and refuses another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.features.layout import Layout
from app.scoring.engine import Engine
from model.export.graph import write_graph
from model.export.graph_builder import ExportError
from model.export.parity import check_parity
from model.networks.mlp import Mlp
from model.networks.network import Network
from model.quality.calibration import Calibration
from tests.support.graphs import CONFIG, LAYOUT, dataset, engine_of, exported_below
from tests.support.networks import trained

pytestmark = pytest.mark.slow


def test_parity_counts_its_rows(exported: tuple[Network, Engine], layout: Layout) -> None:
    """The trainer's own check compares at least 1,000 rows, repeating few ones."""
    worst, compared = check_parity(*exported, dataset(layout, 37))
    assert worst <= 2e-5
    assert compared >= 1000


def nudge_table(network: Network) -> None:
    network.table[1:, 0] += 0.001


def nudge_norm(network: Network) -> None:
    assert isinstance(network.mlp, Mlp)
    network.mlp.norms[0].running_var *= 1.1


def nudge_bias(network: Network) -> None:
    network.bias += 2e-4


def spoil(network: Network) -> None:
    network.bias.fill_(float("nan"))


@pytest.mark.parametrize("change", [nudge_table, nudge_norm, nudge_bias, spoil])
def test_another_network_is_refused(tmp_path: Path, change: Callable[[Network], None]) -> None:
    """A graph that is not this network's fails the export, by how much and at which size."""
    network, graph = exported_below(trained("deepfm", LAYOUT, CONFIG), LAYOUT, tmp_path / "made")
    engine = engine_of(graph, LAYOUT)
    with torch.no_grad():
        change(network)
    with pytest.raises(ExportError, match=r"disagree by .* in a logit for \d+ contexts"):
        check_parity(network, engine, dataset(LAYOUT, 37))


def test_a_graph_that_calibrates_otherwise_is_not_exported(tmp_path: Path) -> None:
    """The export compares every score with what the logit says."""
    network = trained("lr", LAYOUT, CONFIG)
    calibration = Calibration("platt", (0.0,), (-0.5,), (0.7, 0.7))
    write_graph(network, LAYOUT, tmp_path / "score.onnx", calibration)
    engine = engine_of(tmp_path / "score.onnx", LAYOUT)
    check_parity(network, engine, dataset(LAYOUT, 37), calibration)
    with pytest.raises(ExportError, match="not what its logit says"):
        check_parity(network, engine, dataset(LAYOUT, 37))
