"""A structure goes through torch's exporter once; what comes of it is what the exporter gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_map_only

from app.features.graph_inputs import GraphInput, graph_inputs
from app.features.layout import Layout, Slot
from model.config import NETWORKS
from model.export import exporter
from model.export.exporter import exported, onnx_model
from model.export.graph import ScoreGraph
from model.networks import build
from model.networks.crosses import CrossWeights, Operand, Pairs
from model.networks.network import Network
from model.quality.calibration import Calibration
from tests.support.graphs import CONFIG, FLAT, LAYOUTS, Case
from tests.support.networks import trained, with_means
from tests.support.trained import kept

pytestmark = pytest.mark.slow

ISOTONIC = Calibration("isotonic", (-1.0, 0.5, 2.0), (-2.0, 0.25, 1.0), (1.0, 1.5, 0.5, 0.75))
STEEPER = Calibration("isotonic", (-1.5, 0.0, 1.0), (-2.5, 0.5, 2.0), (0.5, 2.0, 1.5, 0.25))
PLATT = Calibration("platt", (0.0,), (0.3,), (1.2, 1.2))
CROSSED = with_means(
    replace(
        FLAT,
        context=(Slot("user", "user", 1, 20), Slot("hour", "time", 51, 26)),
        candidate_lists=(Slot("tags", "tags", 77, 8),),
    )
)


@pytest.fixture
def structures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The exporter begins without templates; the list has an entry for each time it is asked."""
    asked: list[int] = []

    def counted(module: nn.Module, inputs: Sequence[GraphInput]) -> onnx.ModelProto:
        asked.append(len(asked))
        return made_by_torch(module, inputs)

    monkeypatch.setattr(exporter, "_templates", {})
    monkeypatch.setattr(exporter, "exported", counted)
    return asked


class Followed(Exception):
    """The exporter's first way of looking at a module has come to its end."""


class Scaled(ScoreGraph):
    """A graph with a number that the exporter computes of the calibration's."""

    def forward(
        self, context: Tensor, candidate: Tensor, row_context: Tensor, others: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        logit, score = super().forward(context, candidate, row_context, others)
        levels = self.calibrated.levels
        assert isinstance(levels, Tensor)
        return logit, score * (0.5 * levels[-1:]).reciprocal()


def made_by_torch(module: nn.Module, inputs: Sequence[GraphInput]) -> onnx.ModelProto:
    """What torch's exporter makes of a module as it is.

    A machine's tests ask it once for all that decides its answer: the structure, every bit of the
    weights, our code and the versions of packages.
    """
    tensors = exporter._tensors(module)
    structure = exporter._structure(module, tensors[exporter.TABLE], inputs)
    here = Path(__file__).read_bytes()
    weights = [each.numpy().tobytes() for each in tensors.values()]
    with TemporaryDirectory() as directory:
        place = Path(directory, "made")

        def export(made: Path) -> None:
            made.mkdir()
            content = exported(module, inputs).SerializeToString(deterministic=True)
            (made / "graph.onnx").write_bytes(content)

        kept(export, place, "exporter", structure, here, *weights)
        return onnx.load(place / "graph.onnx")


def graph_of(
    network: Network, layout: Layout, calibration: Calibration | None = None
) -> ScoreGraph:
    return ScoreGraph(network, layout, calibration).eval()


def crossed(layout: Layout, seed: int, weights: int = 5) -> Network:
    """A wide and deep network with crosses, one of single values and one with a list."""
    pairs = [
        Pairs(Operand.find(layout, left), Operand.find(layout, right))
        for left, right in (("user", "item"), ("hour", "tags"))
    ]
    # Which pairs have weights of their own comes from the data.
    numbers = np.random.default_rng(weights)
    crosses = [
        CrossWeights(pair, numbers.integers(1, weights, pair.numbers).astype(np.int32), weights)
        for pair in pairs
    ]
    torch.manual_seed(seed)
    network = build(layout, replace(CONFIG, network="wide_deep"), 0.3, crosses).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return network


def same(one: ScoreGraph, layout: Layout) -> None:
    """What the exporter makes of the module itself and what its template gives are equal."""
    inputs = graph_inputs(layout)
    fresh = made_by_torch(one, inputs).SerializeToString(deterministic=True)
    assert onnx_model(one, inputs).SerializeToString(deterministic=True) == fresh


@pytest.mark.parametrize("case", [(n, "numbers") for n in NETWORKS], ids=NETWORKS, indirect=True)
def test_weights_put_into_a_template_are_those_exported(
    case: Case, graph: tuple[Network, Path]
) -> None:
    """A file with weights put in by name is the exporter's own, byte for byte."""
    network, path = graph
    layout = LAYOUTS["numbers"]
    fresh = made_by_torch(graph_of(network, layout), graph_inputs(layout))
    assert path.read_bytes() == fresh.SerializeToString(deterministic=True)


def test_other_weights_rows_and_curves_share_a_structure(structures: list[int]) -> None:
    """Another training asks the exporter for nothing; its graph is as if it had."""
    more = with_means(replace(FLAT, context=(Slot("user", "user", 1, 20_000),),
                              candidate=(Slot("item", "item", 20_001, 30),)))  # fmt: skip
    onnx_model(graph_of(trained("lr", FLAT, CONFIG), FLAT, ISOTONIC), graph_inputs(FLAT))
    same(graph_of(trained("lr", more, CONFIG, seed=8), more, STEEPER), more)
    assert len(structures) == 1
    same(graph_of(trained("lr", more, CONFIG, seed=9), more, PLATT), more)
    assert len(structures) == 2, "a line has fewer knots than a curve"


def test_crosses_are_part_of_a_structure(structures: list[int]) -> None:
    """Weights of pairs are put in by name too; which pairs there are is another structure."""
    onnx_model(graph_of(crossed(CROSSED, 1), CROSSED), graph_inputs(CROSSED))
    same(graph_of(crossed(CROSSED, 2), CROSSED), CROSSED)
    assert len(structures) == 1
    other = graph_of(crossed(CROSSED, 2, weights=7), CROSSED)
    same(other, CROSSED)
    assert len(structures) == 2


def test_equal_weights_stay_apart(structures: list[int]) -> None:
    """Tensors that happen to be equal keep their names, by which a warm start finds them."""
    network = trained("wide_deep", FLAT, replace(CONFIG, hidden=(8, 8, 8)))
    with torch.no_grad():
        for linear in network.mlp.deeper:  # type: ignore[union-attr]
            linear.weight.zero_()
            linear.bias.zero_()
    model = onnx_model(graph_of(network, FLAT), graph_inputs(FLAT))
    names = {value.name for value in model.graph.initializer}
    assert {f"network.mlp.deeper.{place}.{kind}" for place in (0, 1)
            for kind in ("weight", "bias")} <= names  # fmt: skip


def test_a_module_of_which_the_exporter_computes_is_exported_itself(
    structures: list[int],
) -> None:
    """Where a constant depends on weights, no template is kept, and every graph has its own."""
    network = trained("lr", FLAT, CONFIG)
    onnx_model(Scaled(network, FLAT, STEEPER).eval(), graph_inputs(FLAT))
    assert len(structures) == 2, "once to find out, and once for itself"
    same(Scaled(network, FLAT, ISOTONIC).eval(), FLAT)
    assert len(structures) == 3


def test_templates_are_few(structures: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest gives way to a new structure."""
    monkeypatch.setattr(exporter, "KEPT", 1)
    inputs = graph_inputs(FLAT)
    for network, asked in (("lr", 1), ("fm", 2), ("fm", 2), ("lr", 3)):
        onnx_model(graph_of(trained(network, FLAT, CONFIG), FLAT), inputs)
        assert len(structures) == asked
    assert len(exporter._templates) == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_the_exporter_follows_a_network_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first way of looking at a module suffices; each other one takes as long again."""

    def follow(
        module: nn.Module, example: tuple[Any, ...], *, dynamic_shapes: tuple[Any, ...], **_: object
    ) -> None:
        free = tree_map_only(str, lambda _: Dim.DYNAMIC, dynamic_shapes)
        torch.export.export(module, example, dynamic_shapes=free, strict=False)
        raise Followed

    monkeypatch.setattr(torch.onnx, "export", follow)
    with pytest.raises(Followed):
        exported(graph_of(trained(name, FLAT, CONFIG), FLAT), graph_inputs(FLAT))
