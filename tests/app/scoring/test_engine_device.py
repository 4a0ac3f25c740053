"""A fixed-size graph refuses what CUDA cannot capture, and failures are told apart."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.errors import BundleError, DeviceLost, ProviderError
from app.scoring.engine import CUDA, cuda_problem
from app.scoring.engine_device import (
    CudaDevice,
    DeviceOptions,
    FixedGraph,
    HostDevice,
    cuda_device,
    failure_of,
)
from tests.support.devices import LOSSES, SHORTAGES


def graph_of(path: Path, nodes: list[onnx.NodeProto], out: list[int | str]) -> Path:
    """Write a graph of some nodes from "rows", float32 [n, 2], to "out"."""
    model = helper.make_model(
        helper.make_graph(
            nodes, "graph",
            [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 2])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, out)],
            [
                numpy_helper.from_array(np.array([[1], [2]], np.float32), "weights"),
                numpy_helper.from_array(np.array([[0]], np.int64), "places"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
    )  # fmt: skip
    model.ir_version = 10
    path.write_bytes(model.SerializeToString())
    return path


def fixed(path: Path, rows: int = 3) -> FixedGraph:
    return FixedGraph(HostDevice(), path, {"n": rows}, {}, 1, DeviceOptions(), None)


def test_shapes_are_folded(tmp_path: Path) -> None:
    """What computes with the number of rows is a constant once that is fixed."""
    nodes = [
        helper.make_node("MatMul", ["rows", "weights"], ["column"]),
        helper.make_node("Shape", ["rows"], ["size"], start=0, end=1),
        helper.make_node("Reshape", ["column", "size"], ["out"]),
    ]
    graph = fixed(graph_of(tmp_path / "score.onnx", nodes, ["n"]))
    assert "Shape" not in graph.operators
    rows, out = np.array([[1, 1], [0, 3], [5, 0]], np.float32), np.zeros(3, np.float32)
    graph.bind({"rows": rows}, {"out": out})
    graph.run(0)
    assert out.tolist() == [3, 6, 5]
    rows[:] = 1
    graph.run(0)
    assert out.tolist() == [3, 3, 3]


def test_an_operator_that_blocks_the_capture_is_refused(tmp_path: Path) -> None:
    """By name; a graph that scatters would write where CUDA's graph does not know."""
    nodes = [
        helper.make_node("MatMul", ["rows", "weights"], ["column"]),
        helper.make_node("Reshape", ["column", "places_1"], ["flat"]),
        helper.make_node("Gather", ["flat", "places_1"], ["one"]),
        helper.make_node("ScatterND", ["flat", "places", "one"], ["out"]),
        helper.make_node(
            "Constant", [], ["places_1"], value=numpy_helper.from_array(np.array([-1]))
        ),
    ]
    nodes = [nodes[-1], *nodes[:-1]]
    path = graph_of(tmp_path / "score.onnx", nodes, ["n"])
    with pytest.raises(BundleError, match=r"score\.onnx: .*ScatterND"):
        fixed(path)


def test_a_size_that_stays_open_is_refused(tmp_path: Path) -> None:
    """An output whose size depends on values has none."""
    nodes = [
        helper.make_node("MatMul", ["rows", "weights"], ["column"]),
        helper.make_node("NonZero", ["column"], ["found"]),
        helper.make_node("Cast", ["found"], ["out"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(BundleError, match=r"out has no fixed size"):
        fixed(graph_of(tmp_path / "score.onnx", nodes, [2, "m"]))


def test_what_is_no_graph_is_refused_by_name(tmp_path: Path) -> None:
    """As by the engine of the CPU."""
    path = tmp_path / "score.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"score\.onnx cannot be loaded"):
        fixed(path)


@pytest.mark.parametrize("text", [*LOSSES, *SHORTAGES, "something else"])
def test_failures_are_told_apart(text: str) -> None:
    """Only what leaves the process without its device ends it; nothing shows a trace."""
    found = failure_of(RuntimeError(text))
    assert isinstance(found, DeviceLost) is (text in LOSSES)
    assert ("out of memory" in str(found)) is (text in SHORTAGES)
    assert "\n" not in str(found)
    assert len(str(found)) < 300


@pytest.mark.skipif(cuda_problem() is None, reason="this machine has CUDA")
def test_without_cuda_there_is_no_device() -> None:
    """The reason is that of the probe."""
    with pytest.raises(ProviderError) as caught:
        cuda_device()
    assert str(caught.value) == cuda_problem()


def test_settings_become_options_of_cuda() -> None:
    """By the names that onnxruntime's CUDA provider has, and without the CPU's beside it."""
    device = CudaDevice()
    [(name, plain)] = device.providers(DeviceOptions(), None)
    assert name == CUDA
    assert plain == {
        "device_id": "0",
        "use_tf32": "0",
        "enable_cuda_graph": "1",
        "arena_extend_strategy": "kSameAsRequested",
    }
    chosen = DeviceOptions(tf32=True, graphs=False, arena="doubling")
    [(_, found)] = device.providers(chosen, 2**30)
    assert found == {
        "device_id": "0",
        "use_tf32": "1",
        "enable_cuda_graph": "0",
        "arena_extend_strategy": "kNextPowerOfTwo",
        "gpu_mem_limit": "1073741824",
    }


class Runtime:
    """CUDA's library, as far as it pins memory; ``room`` is how many arrays it takes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.pinned: dict[int, int] = {}

    def cudaHostRegister(self, start: Any, size: Any, flags: Any) -> int:  # noqa: N802
        if len(self.pinned) == self.room:
            return 2
        assert start.value % 4096 == 0
        self.pinned[start.value] = size.value
        return 0

    def cudaHostUnregister(self, start: Any) -> int:  # noqa: N802
        del self.pinned[start.value]
        return 0


@pytest.mark.parametrize("room", [0, 2, 3])
def test_memory_is_pinned_as_long_as_its_device_is_there(room: int) -> None:
    """Where CUDA has no more of it, arrays are pageable, which operators are told."""
    runtime = Runtime(room)
    device = CudaDevice(runtime)
    arrays = [device.host(shape, np.float32) for shape in ([7, 3], [5], [4096])]
    assert [array.shape for array in arrays] == [(7, 3), (5,), (4096,)]
    for array in arrays:
        assert not array.any()
        array[...] = 1
    assert device.pinned is (room == 3)
    assert sorted(runtime.pinned) == sorted(each.ctypes.data for each in arrays[:room])
    assert list(runtime.pinned.values()) == [each.nbytes for each in arrays[:room]]
    del device
    assert not runtime.pinned
    assert CudaDevice().pinned is False
    empty = CudaDevice(Runtime(1)).host([4, 0], np.int32)
    assert empty.shape == (4, 0)


def test_weights_that_their_value_owns_can_be_shared(tmp_path: Path) -> None:
    """onnxruntime takes no initializer that owns its memory, as one on a GPU does; a view it
    takes, in place, and the view keeps the memory."""
    nodes = [helper.make_node("MatMul", ["rows", "weights"], ["out"])]
    path = graph_of(tmp_path / "score.onnx", nodes, ["n", 1])
    owner = ort.OrtValue.ortvalue_from_shape_and_type([2, 1], np.float32)
    owner.update_inplace(np.array([[10], [100]], np.float32))
    with pytest.raises(Exception, match="owned by the user"):
        ort.SessionOptions().add_initializer("weights", owner)
    view = ort.OrtValue.from_dlpack(owner)
    del owner
    gc.collect()
    graphs = [
        FixedGraph(HostDevice(), path, {"n": rows}, {"weights": view}, 1, DeviceOptions(), None)
        for rows in (1, 2)
    ]
    out = [np.zeros((rows, 1), np.float32) for rows in (1, 2)]
    for graph, found in zip(graphs, out, strict=True):
        graph.bind({"rows": np.ones((len(found), 2), np.float32)}, {"out": found})
        graph.run(0)
        assert found.ravel().tolist() == [110] * len(found)
