"""Each network's graph can have fixed sizes: nothing in it then blocks the capture by CUDA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from app.features.graph_inputs import Batch
from app.features.layout import Layout
from app.scoring.buckets import Bucket, axis_sizes, own_names
from app.scoring.engine import TOLERANCE, Engine, session_options
from app.scoring.engine_cuda import CudaEngine
from app.scoring.engine_device import BLOCKING, DeviceOptions, HostDevice
from model.networks.network import Network
from tests.support.graphs import dataset, shape

pytestmark = pytest.mark.slow

ROWS = (1, 5, 63, 64, 65, 130)
OPTIONS = DeviceOptions(largest_rows=64, small_rows=0)


def shapes(layout: Layout) -> tuple:
    """The shapes of both sides' rows."""
    return (
        shape(layout.context, layout.context_lists),
        shape(layout.candidate, layout.candidate_lists),
    )


def test_a_fixed_graph_has_no_shapes_and_no_control_flow(
    graph: tuple[Network, Path],
    exported: tuple[Network, Engine],
    layout: Layout,
    tmp_path: Path,
) -> None:
    """A walk over what onnxruntime runs: each value has a size, each operator can be captured."""
    options = session_options(1)
    axes = {each.name: each.shape for each in exported[1]._session.get_inputs()}
    sizes = own_names(layout, axis_sizes(layout, shapes(layout), Bucket(64, 64)), axes)
    for axis, size in sizes.items():
        options.add_free_dimension_override_by_name(axis, size)
    # Operators of onnx alone: what the CPU fuses, CUDA does otherwise.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "fixed.onnx")
    ort.InferenceSession(str(graph[1]), options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "fixed.onnx", load_external_data=False)
    # onnxruntime notes no sizes of values that it made by joining operators.
    fixed = onnx.shape_inference.infer_shapes(loaded, strict_mode=True).graph
    assert fixed.node
    operators = {node.op_type for node in fixed.node}
    assert not operators & BLOCKING, operators
    # The sizes of a Reshape, Expand or Slice are constants: nothing computes with shapes.
    constants = {each.name for each in fixed.initializer}
    for node in fixed.node:
        if node.op_type in ("Reshape", "Expand", "Slice", "Pad", "Tile", "ConstantOfShape"):
            assert constants.issuperset(filter(None, node.input[1:])), node
    sizes_of = {
        value.name: [axis.HasField("dim_value") for axis in value.type.tensor_type.shape.dim]
        for value in [*fixed.input, *fixed.output, *fixed.value_info]
    }
    # Notes on values that no node makes any more may be left.
    for name in (name for node in fixed.node for name in [*node.input, *node.output]):
        assert name in constants or not name or all(sizes_of[name]), name


def test_a_graph_in_buckets_scores_as_the_graph(
    graph: tuple[Network, Path], exported: tuple[Network, Engine], layout: Layout
) -> None:
    """At every size, with one context and many, within the CPU's tolerance."""
    engine = CudaEngine(graph[1], layout, *shapes(layout), HostDevice(), OPTIONS)
    rng = np.random.default_rng(6)
    for rows in ROWS:
        data = dataset(layout, rows, rows)
        for contexts in {1, min(rows, 7), rows}:
            batch = Batch(
                dataset(layout, contexts, 3).context_rows,
                data.candidate_rows,
                rng.integers(0, contexts, rows).astype(np.int32),
            )
            expected = exported[1].score(batch)
            found = engine.score(batch)
            assert found.logit.shape == found.score.shape == (rows,)
            assert np.abs(found.logit - expected.logit).max() <= TOLERANCE[engine.provider] / 5
            np.testing.assert_allclose(found.score, expected.score, rtol=1e-4)
