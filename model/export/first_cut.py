"""The first cut of a catalogue: the inner product of an item's vector and a context's.

FM's pairs across the sides are one inner product (Rendle 2010), FFM's are one of longer vectors
(Juan et al. 2016), and everything else in them belongs to one side. The item's side of it is a
number that joins its vector, the context's side is the same for all items. So the order of items by

    <(1, context's vector), (item's number, item's vector)>

is that of FM's and FFM's logits, and that of the FM in a DeepFM's. Other networks have either no
such term or, in their first order, one that gives every user the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx.numpy_helper
from onnx import GraphProto, NodeProto, TensorProto, helper

from app.features.graph_inputs import FIRST_CUT
from model.export.exporter import ExportError


class FirstCut(NamedTuple):
    """Nodes to add to the graphs of both sides, with their constants; the last gives the vector.

    The item's is its number before ``vector``, whose first columns are ``left_out``.
    """

    candidate: list[NodeProto]
    context: list[NodeProto]
    constants: list[TensorProto]
    vector: str
    left_out: int


def first_cut(graph: GraphProto, network: str, parts: Sequence[str]) -> FirstCut | None:
    """Return the first cut of a network whose item part consists of these values.

    Raises:
        ExportError: its term is not to be found in the graph.
    """
    if network == "deepfm":
        return _of_deepfm(graph, parts)
    if network in ("fm", "ffm"):
        return _of_products(graph, parts)
    return None


def _of_products(graph: GraphProto, parts: Sequence[str]) -> FirstCut:
    """Return that of a network which is nothing but an inner product and sums."""
    item, context = _pair(graph, parts, "Mul")
    numbers = [part for part in parts if part != item]
    total = "first_cut_number"
    return FirstCut(
        [
            helper.make_node("Sum", numbers, [f"{total}s"]),
            helper.make_node("Reshape", [f"{total}s", "first_cut_column"], [total]),
            helper.make_node("Flatten", [item], ["first_cut_vector"], axis=1),
            helper.make_node("Concat", [total, "first_cut_vector"], [FIRST_CUT], axis=1),
        ],
        [
            helper.make_node("Flatten", [context], ["first_cut_vector"], axis=1),
            _with_one("first_cut_vector"),
        ],
        [*_constants(), _constant("first_cut_column", np.array([-1, 1], np.int64))],
        item,
        left_out=0,
    )


def _of_deepfm(graph: GraphProto, parts: Sequence[str]) -> FirstCut:
    """Return that of the serving form, whose sums (s_0, S) make a part 1/2 ||S||^2 + c s_0."""
    item, context = _pair(graph, parts, "Add", "network.pairwise")
    names = [f"first_cut_{name}" for name in ("half", "linear", "terms", "number", "vector")]
    half, linear, terms, number, vector = names
    rest = ["first_cut_one", "first_cut_end", "first_cut_one"]
    return FirstCut(
        [
            helper.make_node("Mul", [item, "network.pairwise"], [half]),
            helper.make_node("Add", [half, "network.first_order"], [linear]),
            helper.make_node("Mul", [item, linear], [terms]),
            helper.make_node("ReduceSum", [terms, "first_cut_one"], [number], keepdims=1),
            helper.make_node("Slice", [item, *rest], [vector]),
            helper.make_node("Concat", [number, vector], [FIRST_CUT], axis=1),
        ],
        [helper.make_node("Slice", [context, *rest], [vector]), _with_one(vector)],
        [*_constants(), _constant("first_cut_end", np.array([2**31], np.int64))],
        item,
        left_out=1,
    )


def _with_one(vector: str) -> NodeProto:
    """Return the node that puts a one before the context's vector."""
    return helper.make_node("Pad", [vector, "first_cut_before", "first_cut_unit"], [FIRST_CUT])


def _constants() -> list[TensorProto]:
    return [
        _constant("first_cut_before", np.array([0, 1, 0, 0], np.int64)),
        _constant("first_cut_unit", np.array(1, np.float32)),
        _constant("first_cut_one", np.array([1], np.int64)),
    ]


def _constant(name: str, value: np.ndarray) -> TensorProto:
    return onnx.numpy_helper.from_array(value, name)


def _pair(
    graph: GraphProto, parts: Sequence[str], operator: str, then: str | None = None
) -> tuple[str, str]:
    """Return a value of the item part and the context's that an operator joins row by row.

    ``then`` is a weight with which the result is multiplied.
    """
    gathered = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Gather"}
    weighed = {name for node in graph.node if then in node.input for name in node.input}
    for node in graph.node:
        if node.op_type != operator or (then is not None and node.output[0] not in weighed):
            continue
        items = [name for name in node.input if name in parts]
        contexts = [gathered[name] for name in node.input if name in gathered]
        if len(items) == len(contexts) == 1:
            return items[0], contexts[0]
    raise ExportError("the graph has no inner product of both sides where its network has one")
