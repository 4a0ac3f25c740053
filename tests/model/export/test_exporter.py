"""A module's graph computes what the module does, at any size of a batch, and is torch's own."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.features.graph_inputs import CONTEXTS, ROWS, GraphInput, Scores, graph_inputs
from app.features.layout import Layout, Slot
from app.scoring.engine import Engine
from model.config import NETWORKS
from model.export.exporter import LEAST_EXAMPLES, onnx_model
from model.export.graph import ScoreGraph
from model.export.graph_builder import ExportError, GraphBuilder
from model.export.operators import OPERATORS
from model.networks import build
from model.networks.crosses import CrossWeights, Operand, Pairs
from model.networks.exporting import exporting, is_exporting
from model.networks.network import Network
from model.quality.calibration import Calibration
from model.quality.offline_scoring import batch_of
from tests.support.calls import INPUTS, Calls, Function
from tests.support.graphs import CONFIG, FLAT, LAYOUTS, dataset, engine_of
from tests.support.networks import trained, with_means
from tests.support.torch_export import quiet_exporter

CALIBRATIONS = {
    "": None,
    "isotonic": Calibration("isotonic", (-1.0, 0.5, 2.0), (-2.0, 0.25, 1.0), (1.0, 1.5, 0.5, 0.75)),
    "platt": Calibration("platt", (0.0,), (0.3,), (1.2, 1.2)),
}
CROSSED = with_means(
    replace(
        FLAT,
        context=(Slot("user", "user", 1, 20), Slot("hour", "time", 51, 26)),
        candidate_lists=(Slot("tags", "tags", 77, 8),),
    )
)

FUNCTIONS: dict[str, Function] = {
    "__getitem__ of parts": lambda m, c, r, o, a, b: r[:, 1:, :2],
    "__getitem__ of a place": lambda m, c, r, o, a, b: r[:, 1],
    "__getitem__ of a varying part": lambda m, c, r, o, a, b: b[:, : a.shape[1]] + 0.0,
    "__getitem__ of all": lambda m, c, r, o, a, b: c[:, 0:3] + 0.0,
    "__rdiv__ of one": lambda m, c, r, o, a, b: 1 / c,
    "__rdiv__": lambda m, c, r, o, a, b: 2.5 / c,
    "add of a number": lambda m, c, r, o, a, b: c + 1,
    "add of types": lambda m, c, r, o, a, b: (a > 2).sum(1) + c[:1, 0],
    "cat": lambda m, c, r, o, a, b: torch.cat([r, r.square()], 1),
    "cat of lists": lambda m, c, r, o, a, b: torch.cat([a, b], 1) + 0.0,
    "cat of lists, then of their size": lambda m, c, r, o, a, b: (
        torch.cat([a, b], -1) + c.new_zeros(a.shape[0], a.shape[1] + b.shape[1])
    ),
    "cat of one and none": lambda m, c, r, o, a, b: torch.cat([r[:, :0], r], 1) * 2,
    "clamp from": lambda m, c, r, o, a, b: c.clamp(min=0.5),
    "clamp of another type": lambda m, c, r, o, a, b: a.clamp(min=0.5),
    "clamp to": lambda m, c, r, o, a, b: a.clamp(min=1, max=4) + 0.0,
    "contiguous": lambda m, c, r, o, a, b: r.transpose(1, 2).contiguous() + 1,
    "div": lambda m, c, r, o, a, b: c / 3,
    "div of types": lambda m, c, r, o, a, b: c[:1, :1] / a.sum(1, keepdim=True).clamp(min=1),
    "embedding": lambda m, c, r, o, a, b: functional.embedding(a, m.table, padding_idx=0),
    "exp": lambda m, c, r, o, a, b: torch.exp(c),
    "exp of another type": lambda m, c, r, o, a, b: torch.exp(a),
    "expand by name": lambda m, c, r, o, a, b: m.table[:1].expand(size=(c.shape[0], 2)),
    "expand": lambda m, c, r, o, a, b: m.table[:1].expand(c.shape[0], 2),
    "flatten": lambda m, c, r, o, a, b: r.flatten(1) + 1,
    "flatten of nothing": lambda m, c, r, o, a, b: r[:, :, :0].flatten(1) + 1,
    "flatten of lists": lambda m, c, r, o, a, b: (
        (a.unsqueeze(2) * 3 + b.unsqueeze(1)).flatten(1) + 0.0
    ),
    "ge": lambda m, c, r, o, a, b: (c.unsqueeze(2) >= m.layer.bias).sum(2) + 0.0,
    "gt of truth values": lambda m, c, r, o, a, b: ((c > 0) > (c > 0.5)) + 0.0,
    "gt": lambda m, c, r, o, a, b: torch.where(c > 0, c, 0.25 * c),
    "index_select of rows": lambda m, c, r, o, a, b: c.index_select(0, o),
    "index_select": lambda m, c, r, o, a, b: r.index_select(2, m.places),
    "index_select from the end": lambda m, c, r, o, a, b: r.index_select(-1, m.places),
    "linear": lambda m, c, r, o, a, b: m.layer(c),
    "linear without bias": lambda m, c, r, o, a, b: functional.linear(c, m.layer.weight),
    "matmul": lambda m, c, r, o, a, b: r @ m.kernel,
    "minimum": lambda m, c, r, o, a, b: torch.minimum(c, c.square()),
    "mul of truth values": lambda m, c, r, o, a, b: ((c > 0) * (c > 0.5)) + 0.0,
    "mul": lambda m, c, r, o, a, b: r * c.index_select(0, o).unsqueeze(1),
    "ne": lambda m, c, r, o, a, b: (a != 0).to(torch.float32),
    "neg": lambda m, c, r, o, a, b: -c,
    "new_zeros of more": lambda m, c, r, o, a, b: r.new_zeros(2 * r.shape[0], 3) + 1,
    "new_zeros": lambda m, c, r, o, a, b: r.new_zeros(r.shape[0], 3) + 1,
    "pad": lambda m, c, r, o, a, b: functional.pad(c, (1, 2)),
    "relu": lambda m, c, r, o, a, b: functional.relu(c),
    "repeat": lambda m, c, r, o, a, b: r.repeat(1, 2, 1),
    "reshape": lambda m, c, r, o, a, b: r.reshape(r.shape[0], 3, 2) + 1,
    "reshape to varying sizes": lambda m, c, r, o, a, b: (
        m.table.index_select(0, a.flatten())[:, 0].reshape(a.shape)
    ),
    "sigmoid": lambda m, c, r, o, a, b: torch.sigmoid(c),
    "split": lambda m, c, r, o, a, b: torch.split(r, [1, 2], dim=2)[1] + 1,
    "split of weights": lambda m, c, r, o, a, b: (
        r[:, 0] @ torch.split(m.kernel, 2, dim=1)[2]
    ),
    "square of truth values": lambda m, c, r, o, a, b: (c > 0).square() + 0.0,
    "square": lambda m, c, r, o, a, b: c.square(),
    "squeeze": lambda m, c, r, o, a, b: c[:, :1].squeeze(1) + 1,
    "sub": lambda m, c, r, o, a, b: c - 0.5,
    "sum from the end": lambda m, c, r, o, a, b: r.sum(dim=-1),
    "sum": lambda m, c, r, o, a, b: (a != 0).sum(1) + 0.0,
    "tanh": lambda m, c, r, o, a, b: torch.tanh(c),
    "to by name": lambda m, c, r, o, a, b: a.to(dtype=torch.float32, copy=True),
    "to what another has": lambda m, c, r, o, a, b: a.to(c),
    "to": lambda m, c, r, o, a, b: a.to(torch.float32),
    "transpose": lambda m, c, r, o, a, b: r.transpose(1, 2) * 2,
    "unsqueeze": lambda m, c, r, o, a, b: c.unsqueeze(1) + 1,
    "where": lambda m, c, r, o, a, b: torch.where(c > 0.1, c, 1),
    "zeros_like": lambda m, c, r, o, a, b: torch.cat([a, torch.zeros_like(a)], 1) + 0.0,
}  # fmt: skip
"""Calls that networks make: of the context, of rows, of the context of each row, of two lists."""


def session_of(model: onnx.ModelProto) -> ort.InferenceSession:
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_computes_what_torch_does(name: str) -> None:
    """One batch after the other, of other sizes and with lists of other lengths."""
    module = Calls(FUNCTIONS[name]).eval()
    session = session_of(onnx_model(module, INPUTS))
    random = np.random.default_rng(5)
    for contexts, rows, places, others in ((1, 1, 1, 1), (3, 5, 2, 4), (2, 7, 3, 3), (1, 0, 1, 2)):
        given: dict[str, Any] = {
            "context": random.normal(size=(contexts, 3)).astype(np.float32),
            "candidate": random.normal(size=(rows, 2, 3)).astype(np.float32),
            "row_context": random.integers(0, contexts, rows, np.int32),
            "list": random.integers(0, 9, (rows, places), np.int32),
            "other_list": random.integers(0, 9, (rows, others), np.int32),
        }
        context, candidate, row_context, *lists = map(torch.from_numpy, given.values())
        with torch.no_grad():
            expected, _ = module(context, candidate, row_context, lists)
        found, opposite = session.run(Scores._fields, given)
        assert found.dtype == expected.detach().numpy().dtype
        np.testing.assert_allclose(found, expected.detach(), rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(opposite, -found)


def test_every_function_is_tried() -> None:
    """A function that the exporter has gained is compared with torch's, too."""
    assert {name.partition(" ")[0] for name in FUNCTIONS} == set(OPERATORS)


def test_a_number_that_is_a_size_of_the_example_by_chance_is_fixed() -> None:
    """The first number of a vocabulary's rows may be any: another example is tried then."""
    least = math.prod(examples(LEAST_EXAMPLES[0], 3))

    def shifted(m: Calls, c: Tensor, r: Tensor, o: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return c + least

    session = session_of(onnx_model(Calls(shifted).eval(), INPUTS))
    given: dict[str, Any] = {
        "context": np.ones((1, 3), np.float32), "candidate": np.zeros((2, 2, 3), np.float32),
        "row_context": np.zeros(2, np.int32), "list": np.zeros((2, 1), np.int32),
        "other_list": np.zeros((2, 1), np.int32),
    }  # fmt: skip
    np.testing.assert_array_equal(session.run(["logit"], given)[0], np.float32(least + 1))


def examples(least: int, count: int) -> list[int]:
    """Return the sizes of the first axes that vary."""
    return GraphBuilder(least).sizes_of([f"axis_{number}" for number in range(count)])


def test_many_lists_have_sizes_of_their_own() -> None:
    """Each has the length that its batch needs, and so have all of them joined."""
    inputs = [*INPUTS[:3], *(GraphInput(f"list_{n}", (ROWS, f"places_{n}")) for n in range(12))]

    class Sums(nn.Module):
        def forward(
            self, context: Tensor, candidate: Tensor, row_context: Tensor, others: list[Tensor]
        ) -> tuple[Tensor, Tensor]:
            joined = torch.cat([each.unsqueeze(2).sum(1) for each in others], 1)
            return joined + 0.0, torch.cat(others, 1) + 0.0

    session = session_of(onnx_model(Sums(), inputs))
    given: dict[str, Any] = {
        "context": np.zeros((1, 3), np.float32), "candidate": np.zeros((2, 2, 3), np.float32),
        "row_context": np.zeros(2, np.int32),
    }  # fmt: skip
    given |= {f"list_{n}": np.full((2, n + 1), n, np.int32) for n in range(12)}
    sums, joined = session.run(Scores._fields, given)
    np.testing.assert_array_equal(sums, [[n * (n + 1) for n in range(12)]] * 2)
    assert joined.shape == (2, sum(range(1, 13)))


def test_equal_operations_are_done_once_and_others_left_out() -> None:
    """A value that is computed twice is one of the graph, and what no score needs is none."""

    def twice(m: Calls, c: Tensor, r: Tensor, o: Tensor, a: Tensor, b: Tensor) -> Tensor:
        m.layer(c)
        return r.flatten(1) * r.flatten(1)

    graph = onnx_model(Calls(twice).eval(), INPUTS).graph
    assert [node.op_type for node in graph.node] == ["Reshape", "Mul", "Neg"]
    assert not [each.name for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT]


def test_equal_weights_stay_apart() -> None:
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


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_have_their_names_and_bits(name: str) -> None:
    """Every weight that a score depends on is in the graph as it is; it is left as it was."""
    layout = LAYOUTS["numbers"]
    graph = graph_of(trained(name, layout, CONFIG), layout)
    before = {key: value.clone() for key, value in graph.state_dict().items()}
    found = {each.name: each for each in onnx_model(graph, graph_inputs(layout)).graph.initializer}
    after = graph.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    for key, value in before.items():
        if value.numel():
            assert found[key].raw_data == value.numpy().tobytes()


@pytest.mark.slow
def test_sums_are_written_for_a_graph_only_there() -> None:
    """After an export that fails, networks train as before."""

    def fails(m: Calls, c: Tensor, r: Tensor, o: Tensor, a: Tensor, b: Tensor) -> Tensor:
        assert is_exporting()
        return c.cumsum(1)

    with pytest.raises(ExportError):
        onnx_model(Calls(fails).eval(), INPUTS)
    assert not is_exporting()


def graph_of(
    network: Network, layout: Layout, calibration: Calibration | None = None
) -> ScoreGraph:
    return ScoreGraph(network, layout, calibration).eval()


def crossed(layout: Layout) -> Network:
    """A wide and deep network with crosses, one of single values and one with a list."""
    pairs = [
        Pairs(Operand.find(layout, left), Operand.find(layout, right))
        for left, right in (("user", "item"), ("hour", "tags"))
    ]
    # Which pairs have weights of their own comes from the data.
    numbers = np.random.default_rng(5)
    crosses = [
        CrossWeights(pair, numbers.integers(1, 5, pair.numbers).astype(np.int32), 5)
        for pair in pairs
    ]
    torch.manual_seed(1)
    network = build(layout, replace(CONFIG, network="wide_deep"), 0.3, crosses).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return network


def made_by_torch(module: nn.Module, layout: Layout) -> onnx.ModelProto:
    """Return what torch's own exporter makes of a module."""
    inputs = graph_inputs(layout)
    sizes = {CONTEXTS: 2, ROWS: 3}
    example = [
        torch.ones(
            [sizes.get(axis, 2) if isinstance(axis, str) else axis for axis in each.axes],
            dtype=getattr(torch, each.dtype),
        )
        for each in inputs
    ]
    shapes = [{n: axis for n, axis in enumerate(each.axes) if isinstance(axis, str)}
              for each in inputs]  # fmt: skip
    with quiet_exporter(), exporting():
        program = torch.onnx.export(
            module, (*example[:3], example[3:]), dynamo=True, verbose=False,
            input_names=[each.name for each in inputs], output_names=Scores._fields,
            dynamic_shapes=(*shapes[:3], shapes[3:]), external_data=False,
        )  # fmt: skip
    assert program is not None
    return program.model_proto


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "calibration"),
    [*((name, "") for name in NETWORKS), ("crossed", ""), ("lr", "platt"), ("lr", "isotonic")],
)
def test_scores_are_those_of_torch_s_own_exporter(
    name: str, calibration: str, tmp_path: Path
) -> None:
    """Bit for bit: the engine computes the same products and sums in the same order."""
    layout = CROSSED if name == "crossed" else LAYOUTS["numbers"]
    network = crossed(layout) if name == "crossed" else trained(name, layout, CONFIG)
    module = graph_of(network, layout, CALIBRATIONS[calibration])
    engines: list[Engine] = []
    for model in (onnx_model(module, graph_inputs(layout)), made_by_torch(module, layout)):
        path = tmp_path / f"{len(engines)}.onnx"
        path.write_bytes(model.SerializeToString())
        engines.append(engine_of(path, layout))
    for rows in (1, 7, 300):
        ours, theirs = (each.score(batch_of(dataset(layout, rows))) for each in engines)
        assert ours.logit.tobytes() == theirs.logit.tobytes()
        assert ours.score.tobytes() == theirs.score.tobytes()
