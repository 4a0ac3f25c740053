"""What the reader of graph files finds is what the library onnx finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from app.bundle.graph_file import mapped, outside_tensors
from app.errors import BundleError

TABLE = np.arange(3000, dtype=np.float32).reshape(1000, 3)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A graph with a table, and whole numbers, in a file beside it, and a tensor in its own."""
    (tmp_path / "weights.bin").write_bytes(bytes(4096) + TABLE.tobytes())
    table = numpy_helper.from_array(TABLE, "network.table")
    whole = numpy_helper.from_array(np.arange(4, dtype=np.int64), "whole")
    for each, offset in ((table, 4096), (whole, 0)):
        set_external_data(each, "weights.bin", offset=offset, length=len(each.raw_data))
        each.ClearField("raw_data")
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Gather", ["network.table", "rows"], ["out"])],
            "é" * 300,
            [helper.make_tensor_value_info("rows", TensorProto.INT64, ["n"])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 3])],
            [numpy_helper.from_array(np.ones((2, 2), np.float32), "own"), table, whole],
        )
    )
    path = tmp_path / "score.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_the_tensors_beside_a_graph_are_found(graph: Path) -> None:
    """By name, shape and place: those of float32, and only those that lie in another file."""
    [found] = outside_tensors(graph)
    assert found == ("network.table", (1000, 3), "weights.bin", 4096)
    np.testing.assert_array_equal(mapped(graph, found), TABLE)


def test_a_bundle_agrees_with_onnx(tiny_bundle: Path) -> None:
    """A trained bundle's graphs, whether they keep weights beside them or not."""
    for path in tiny_bundle.glob("*.onnx"):
        expected = {
            each.name: tuple(each.dims)
            for each in onnx.load(path, load_external_data=False).graph.initializer
            if each.data_location == TensorProto.EXTERNAL
        }
        assert {each.name: each.shape for each in outside_tensors(path)} == expected


@pytest.mark.parametrize("cut", [1, 7, 100, -5])
def test_a_file_that_ends_too_early_is_refused(graph: Path, cut: int) -> None:
    """Never an IndexError, and never a tensor that is not there."""
    graph.write_bytes(graph.read_bytes()[:cut])
    with pytest.raises(BundleError, match=r"score\.onnx cannot be read"):
        outside_tensors(graph)


def test_weights_that_are_gone_are_refused(graph: Path) -> None:
    """The file of weights is missing, or too short for the tensor."""
    [table] = outside_tensors(graph)
    (graph.parent / "weights.bin").write_bytes(bytes(4096))
    with pytest.raises(BundleError, match=r"weights\.bin cannot be mapped"):
        mapped(graph, table)
    (graph.parent / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights\.bin cannot be mapped"):
        mapped(graph, table)
