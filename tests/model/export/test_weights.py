"""All weights of a network can be read back from its graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.export.graph import write_graph
from model.export.weights import read_weights
from model.networks.network import Network
from tests.support.graphs import CONFIG, LAYOUT, Case
from tests.support.networks import trained

pytestmark = pytest.mark.slow


def test_the_weights_can_be_read_again(case: Case, graph: tuple[Network, Path]) -> None:
    """A graph holds all weights, batch norm folded, by which another network may begin."""
    network, path = graph
    weights = read_weights(path, *case)
    # A side of one field has no pairs, and kernels without numbers, which are in no graph.
    parameters = [(name, v) for name, v in network.folded().named_parameters() if v.numel()]
    for parameter, value in parameters:
        torch.testing.assert_close(weights[parameter], value.detach(), atol=1e-6, rtol=1e-5)


def test_each_half_of_the_first_layer_goes_to_its_side(tmp_path: Path) -> None:
    """The exporter cuts the layer's weights in two; they come back in the network's order."""
    network = trained("wide_deep", LAYOUT, CONFIG)
    write_graph(network, LAYOUT, tmp_path / "score.onnx")
    weight = read_weights(tmp_path / "score.onnx", "wide_deep", LAYOUT)["mlp.first.weight"]
    expected = dict(network.folded().named_parameters())["mlp.first.weight"].detach()
    torch.testing.assert_close(weight, expected, atol=1e-6, rtol=1e-5)
    halves = expected.chunk(2, 1)
    assert not torch.equal(halves[0], halves[1])
