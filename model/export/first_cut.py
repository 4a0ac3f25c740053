"""The first cut of a catalogue: the inner product of an item's vector and a context's.

FM's pairs across the sides are one inner product <s, S> (Rendle 2010), FFM's are one of longer
vectors (Juan et al. 2016). A number of the item's own takes in everything else, as it is for the
average context, whose indices are the means of its slots (s_0 being its vector):

    number = logit(average context, item) - <s_0, S>.

So the order of items by <(1, s), (number, S)> is exactly that of FM's and FFM's logits, in which
everything else is a sum over one side. A DeepFM's hidden layers are those of the average context.
Other networks have either no such term or, in their first order, one that gives every user the same
order.

Of dynamic fields, which no item of a catalogue has a value of, the vectors hold what they are if
they are missing: that is how such a ranking is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx.numpy_helper
from onnx import GraphProto, NodeProto, TensorProto, helper

from app.features.graph_inputs import CONTEXTS, FIRST_CUT, graph_inputs
from app.features.layout import Layout
from model.export.graph_builder import ExportError

NETWORKS = ("fm", "ffm", "deepfm")


class FirstCut(NamedTuple):
    """Nodes to add to the graphs of both sides; the last of each gives the vector.

    ``before`` are the nodes that come first in the candidate's graph, and stand for the context's
    inputs there, as ``average`` does. ``width`` is that of ``vector`` but ``left_out``.
    """

    before: list[NodeProto]
    candidate: list[NodeProto]
    context: list[NodeProto]
    constants: list[TensorProto]
    average: list[TensorProto]
    vector: str
    left_out: int


def first_cut(
    graph: GraphProto, network: str, layout: Layout, parts: Sequence[str]
) -> FirstCut | None:
    """Return the first cut of a network whose item part consists of these values.

    Raises:
        ExportError: its term is not to be found in the graph.
    """
    if network not in NETWORKS:
        return None
    if network == "deepfm":
        # The sums of its serving form; the first column is that of the first order.
        item, context = _pair(graph, parts, "Add", "network.pairwise")
    else:
        item, context = _pair(graph, parts, "Mul")
    left_out = int(network == "deepfm")
    mine, other = "first_cut_item", "first_cut_context"
    read = "candidate" if layout.candidate else "candidate_list_0"
    return FirstCut(
        [
            helper.make_node("Shape", [read], ["first_cut_rows"], start=0, end=1),
            helper.make_node(
                "ConstantOfShape",
                ["first_cut_rows"],
                ["row_context"],
                value=helper.make_tensor("value", TensorProto.INT32, [1], [0]),
            ),
        ],
        [
            *_vector(item, mine),
            *_vector(context, other),
            helper.make_node("Transpose", [other], [f"{other}_turned"], perm=[1, 0]),
            helper.make_node("MatMul", [mine, f"{other}_turned"], ["first_cut_product"]),
            helper.make_node("Reshape", ["logit", "first_cut_column"], ["first_cut_logit"]),
            helper.make_node("Sub", ["first_cut_logit", "first_cut_product"], ["first_cut_number"]),
            helper.make_node("Concat", ["first_cut_number", mine], [FIRST_CUT], axis=1),
        ],
        [
            *_vector(context, other),
            # A one before it, for the number of the item.
            helper.make_node("Pad", [other, "first_cut_place", "first_cut_unit"], [FIRST_CUT]),
        ],
        [
            _constant("first_cut_first", np.array([left_out], np.int64)),
            _constant("first_cut_end", np.array([2**31], np.int64)),
            _constant("first_cut_axis", np.array([1], np.int64)),
            _constant("first_cut_column", np.array([-1, 1], np.int64)),
            _constant("first_cut_place", np.array([0, 1, 0, 0], np.int64)),
            _constant("first_cut_unit", np.array(1, np.float32)),
        ],
        _average_context(layout),
        item,
        left_out,
    )


def _vector(value: str, name: str) -> list[NodeProto]:
    """Return nodes that flatten a value's rows and leave out their first columns."""
    rest = ["first_cut_first", "first_cut_end", "first_cut_axis"]
    return [
        helper.make_node("Flatten", [value], [f"{name}_flat"], axis=1),
        helper.make_node("Slice", [f"{name}_flat", *rest], [name]),
    ]


def _average_context(layout: Layout) -> list[TensorProto]:
    """Return what stands for the context's inputs: the index of each slot's mean, ones."""
    values: dict[str, np.ndarray] = {
        "context": np.array([[slot.mean or slot.oov for slot in layout.context]], np.int32)
    }
    for number, slot in enumerate(layout.context_lists):
        values[f"context_list_{number}"] = np.array([[slot.mean or slot.oov]], np.int32)
    values["context_value"] = np.ones((1, layout.context_values), np.float32)
    names = [each.name for each in graph_inputs(layout) if CONTEXTS in each.axes]
    return [_constant(name, values[name]) for name in names]


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
    for node in reversed(graph.node):
        # What dynamic fields add comes between.
        if node.op_type == operator == "Add" and node.output[0] in weighed:
            weighed.update(node.input)
    for node in graph.node:
        if node.op_type != operator or (then is not None and node.output[0] not in weighed):
            continue
        items = [name for name in node.input if name in parts]
        contexts = [gathered[name] for name in node.input if name in gathered]
        if len(items) == len(contexts) == 1:
            return items[0], contexts[0]
    raise ExportError("the graph has no inner product of both sides where its network has one")
