"""Bundles that verify and are bad: their graphs score too high, fail for one user, or are slow."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from app.bundle.manifest import MANIFEST, Manifest, read_manifest
from tests.support.bundles import rewrite
from tests.support.swaps import sign

GRAPH = "score.onnx"
Change = Callable[[onnx.GraphProto], None]


def with_graph(bundle: Path, directory: Path, change: Change) -> Path:
    """Copy a bundle into a directory with another graph, under the name that is its own then."""
    copy = directory / f".{bundle.name}"
    shutil.copytree(bundle, copy)
    kept = {
        name: record
        for name, record in read_manifest(copy).files.items()
        if not name.endswith(".onnx") or name == GRAPH
    }
    for path in copy.glob("*.onnx"):
        if path.name != GRAPH:
            path.unlink()
    model = onnx.load(copy / GRAPH)
    change(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, copy / GRAPH)
    rewrite(copy, files=kept, parts=None)
    sign(copy)
    manifest: Manifest = read_manifest(copy)
    assert (copy / MANIFEST).exists()
    return copy.rename(directory / manifest.version)


def _replace_score(graph: onnx.GraphProto, make: Callable[[str], list[onnx.NodeProto]]) -> None:
    """Let nodes made for the name of the former score give the score."""
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == "score":
                node.output[place] = "former_score"
        for place, name in enumerate(node.input):
            if name == "score":
                node.input[place] = "former_score"
    graph.node.extend(make("former_score"))


def doubled(graph: onnx.GraphProto) -> None:
    """Scores are twice what they should be; logits, which golden requests compare, are right."""
    graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    _replace_score(graph, lambda former: [helper.make_node("Mul", [former, "two"], ["score"])])


def failing_for(column: int, index: int, title: str = "fails") -> Change:
    """Runs fail that hold a context with an index in a column: a row is looked up that is none.

    ``title`` names the graph, which makes a version of its own.
    """

    def change(graph: onnx.GraphProto) -> None:
        graph.name = title
        for name, value in (
            ("column", np.int64(column)),
            ("unlucky", np.int32(index)),
            ("one_zero", np.zeros(1, np.float32)),
        ):
            graph.initializer.append(numpy_helper.from_array(np.array(value), name))

        def nodes(former: str) -> list[onnx.NodeProto]:
            return [
                helper.make_node("Gather", ["context", "column"], ["users"], axis=1),
                helper.make_node("Equal", ["users", "unlucky"], ["hits"]),
                helper.make_node("Cast", ["hits"], ["counts"], to=TensorProto.INT64),
                helper.make_node("ReduceMax", ["counts"], ["outside"], keepdims=0),
                helper.make_node("Gather", ["one_zero", "outside"], ["nothing"]),
                helper.make_node("Add", [former, "nothing"], ["score"]),
            ]

        _replace_score(graph, nodes)

    return change


def slow(graph: onnx.GraphProto) -> None:
    """Each run takes products of matrices besides, of which nothing is left in the score."""
    size, products = 900, 2
    matrix = np.random.default_rng(1).normal(0, 1 / size, (size, size)).astype(np.float32)
    for name, value in (("matrix", matrix), ("none", np.float32(0))):
        graph.initializer.append(numpy_helper.from_array(np.array(value), name))

    def nodes(former: str) -> list[onnx.NodeProto]:
        made = [
            helper.make_node("ReduceMax", [former], ["largest"], keepdims=0),
            # Of the scores, so that it is not computed once and for all.
            helper.make_node("Mul", ["matrix", "largest"], ["product0"]),
        ]
        for number in range(products):
            names = [f"product{number}", "matrix"], [f"product{number + 1}"]
            made.append(helper.make_node("MatMul", *names))
        return [
            *made,
            helper.make_node("ReduceMax", [f"product{products}"], ["end"], keepdims=0),
            helper.make_node("Mul", ["end", "none"], ["nothing"]),
            helper.make_node("Add", [former, "nothing"], ["score"]),
        ]

    _replace_score(graph, nodes)
