"""The exported graph is the network, at every size, and carries nothing else."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from app.errors import BundleError, EngineFailed
from app.features.graph_inputs import Batch
from app.features.layout import Layout
from app.scoring.engine import Engine
from model.export.graph import write_graph
from model.export.parity import network_logits
from model.export.quantize import write_int8
from model.export.weights import read_weights
from model.networks.network import Network
from model.quality.offline_scoring import batch_of
from tests.support.graphs import (
    CONFIG,
    LAYOUT,
    NUMBERS,
    dataset,
    engine_of,
    exported_below,
)
from tests.support.networks import trained

pytestmark = pytest.mark.slow

ROWS = (0, 1, 2, 3, 7, 64, 1000)
CONTEXTS = (1, 2, 5, 64, 1000)


@pytest.mark.parametrize("rows", ROWS)
def test_every_size_scores_as_the_network(
    exported: tuple[Network, Engine], layout: Layout, rows: int
) -> None:
    """Any number of contexts and candidates gives the network's logits."""
    network, engine = exported
    for contexts in CONTEXTS:
        context, candidate = dataset(layout, contexts, 3), dataset(layout, rows, 4)
        row_context = np.random.default_rng(5).integers(0, contexts, rows).astype(np.int32)
        if rows:
            row_context[-1] = contexts - 1
        expected = network_logits(
            network,
            replace(
                candidate,
                context=context.context,
                context_lists=context.context_lists,
                context_value=context.context_value,
            ),
            row_context,
        )
        found = engine.score(
            Batch(
                context.context_rows,
                candidate.candidate_rows,
                row_context,
            )
        )
        assert found.logit.shape == (rows,)
        assert np.abs(found.logit - expected).max(initial=0) <= 2e-5
        assert rows < 64 or np.ptp(expected) > 0.3, "scores that are all alike would prove little"


def test_numbers_are_no_indices(tmp_path: Path) -> None:
    """The bits of a number may be any; a scaled slot's index is checked like others."""
    network = trained("lr", NUMBERS, CONFIG)
    write_graph(network, NUMBERS, tmp_path / "score.onnx")
    engine = engine_of(tmp_path / "score.onnx", NUMBERS)
    data = dataset(NUMBERS, 4)
    numbers = np.array([[-0.0], [-1e30], [1e-45], [3e38]], np.float32)
    owners = np.arange(4, dtype=np.int32)
    for values in (numbers, numbers[::-1].copy()):
        rows = replace(data, context_value=values, candidate_value=values)
        found = engine.score(Batch(rows.context_rows, rows.candidate_rows, owners)).logit
        expected = network_logits(network, rows, owners)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
    for side in ("context", "candidate"):
        wrong = getattr(data, side).copy()
        wrong[2, -1] = NUMBERS.table_rows
        rows = replace(data, **{side: wrong})
        with pytest.raises(EngineFailed, match="outside the table"):
            engine.score(Batch(rows.context_rows, rows.candidate_rows, owners))


def test_a_graph_without_numbers_has_no_inputs_for_them(tmp_path: Path) -> None:
    """An engine refuses a graph whose inputs are not those of the layout's slots."""
    _, graph = exported_below(trained("lr", LAYOUT, CONFIG), LAYOUT, tmp_path / "made")
    with pytest.raises(BundleError, match="context_value"):
        engine_of(graph, NUMBERS)


def test_a_graph_is_one_straight_line(graph: tuple[Network, Path]) -> None:
    """There is no control flow and no operator whose output's size depends on values."""
    operators = {node.op_type for node in onnx.load(graph[1]).graph.node}
    assert not operators & {"Loop", "If", "Scan", "NonZero", "Compress"}


def test_list_length_is_free(exported: tuple[Network, Engine], layout: Layout) -> None:
    """A batch whose lists are all empty runs, and scores as the network."""
    network, engine = exported
    data = dataset(layout, 5)
    data = replace(
        data,
        context_lists=tuple(np.zeros_like(column) for column in data.context_lists),
        candidate_lists=tuple(np.zeros_like(column) for column in data.candidate_lists),
    )
    owners = np.arange(5, dtype=np.int32)
    found = engine.score(
        Batch(
            data.context_rows,
            data.candidate_rows,
            owners,
        )
    )
    assert np.abs(found.logit - network_logits(network, data, owners)).max() <= 2e-5


def test_first_dimensions_are_symbolic(tiny_bundle: Path) -> None:
    """No input or output of the file has a fixed number of rows, contexts or list places."""
    graph = onnx.load(tiny_bundle / "score.onnx").graph
    sizes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert sizes["context"][0] == "contexts"
    assert sizes["candidate"][0] == sizes["row_context"][0] == "rows"
    assert sizes["logit"] == sizes["score"] == ["rows"]
    assert sizes["candidate_list_0"][0] == "rows"
    assert isinstance(sizes["candidate_list_0"][1], str)
    assert [sizes["context"][1], sizes["candidate"][1]] == [6, 3]


def test_a_graph_tells_nothing_of_the_machine(tiny_bundle: Path) -> None:
    """Neither paths nor stack traces nor names of this machine are in the file."""
    data = (tiny_bundle / "score.onnx").read_bytes()
    root = Path(__file__).resolve().parents[3]
    words = [str(root), "site-packages", ".py", "Traceback", "stack_trace", "torch/nn", 'File "']
    for word in [*words, str(Path.home()), socket.gethostname()]:
        assert len(word) < 3 or word.encode() not in data, word


def test_many_weights_are_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph with external data scores as one without, wherever both files are moved."""
    network, graph = exported_below(trained("deepfm", LAYOUT, CONFIG), LAYOUT, tmp_path / "made")
    data = dataset(LAYOUT, 37)
    expected = engine_of(graph, LAYOUT).score(batch_of(data))
    weights = read_weights(graph, "deepfm", LAYOUT)
    monkeypatch.setattr("model.export.graph.MAX_INLINE_BYTES", 2000)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_graph(network, LAYOUT, tmp_path / name / "score.onnx")
    files = sorted((tmp_path / "one").iterdir())
    assert [file.name for file in files] == ["score.onnx", "weights.bin"]
    for file in files:
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    moved = (tmp_path / "one").rename(tmp_path / "moved")
    engine = engine_of(moved / "score.onnx", LAYOUT)
    found = engine.score(batch_of(data))
    assert found.logit.tobytes() == expected.logit.tobytes()
    for parameter, value in read_weights(moved / "score.onnx", "deepfm", LAYOUT).items():
        torch.testing.assert_close(value, weights[parameter], atol=0, rtol=0)
    # Mapped, and the table not copied: all processes share its pages.
    maps = Path("/proc/self/maps").read_text()
    assert str(moved / "weights.bin") in maps
    before = (moved / "weights.bin").read_bytes()

    write_int8(moved / "score.onnx", moved / "int8.onnx", engine, data, 1)
    assert sorted(file.name for file in moved.iterdir()) == [
        "int8.onnx",
        "score.onnx",
        "weights.bin",
    ]
    assert (moved / "weights.bin").read_bytes() == before
    outside = {
        weights.name
        for weights in onnx.load(moved / "int8.onnx", load_external_data=False).graph.initializer
        if weights.external_data
    }
    assert "network.table" in outside
    quick = engine_of(moved / "int8.onnx", LAYOUT).score(batch_of(data))
    np.testing.assert_allclose(quick.logit, expected.logit, atol=0.2)

    (moved / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"score\.onnx cannot be loaded: .*weights\.bin"):
        engine_of(moved / "score.onnx", LAYOUT)
