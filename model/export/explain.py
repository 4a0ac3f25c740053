"""The graph that explains: a row's indices to the terms of its logit.

Of LR, FM, FFM, Wide & Deep and DeepFM the logit is a sum of terms with one field or two and, of the
last two, of hidden layers. ``explain.onnx`` gives the terms:

- first_order [N, S], the weight of each slot's value, in the order of ``Layout.slots``;
- pairs [N, P], the term of each pair of slots i < j, or of each pair that the network crosses;
- bias [1].

The hidden layers' part is the rest of the logit of whatever graph serves, so there is one such
graph for float32 and int8. Weights are those of ``score.onnx``, shared with it in ``weights.bin``.
A slot's mean is an index like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from app.bundle.manifest import Explainable
from app.explain.terms import BIAS, FIRST_ORDER, PAIRS, TermsGraph
from app.features.graph_inputs import ROWS
from app.features.layout import PADDING, Layout, Slot
from app.scoring.engine import Engine
from model.data.dataset import Dataset
from model.export.exporter import TABLE
from model.export.graph_builder import ExportError
from model.networks.crosses import CrossWeights
from model.networks.network import Network, look_up
from model.quality.offline_scoring import batch_of

PAIR_NETWORKS = ("fm", "ffm", "deepfm")
DEEP_NETWORKS = ("wide_deep", "deepfm")
NETWORKS = ("lr", *PAIR_NETWORKS, "wide_deep")
"""Networks whose logit has terms."""
CHECKED_ROWS = 1_000
"""Rows over which the terms are compared with the network."""
_NUMPY = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}


def write_explain(
    graph: Path, network: str, layout: Layout, crosses: Sequence[CrossWeights], out: Path
) -> Explainable:
    """Write the graph of a network's terms beside its graph; nothing if it has none."""
    pairs = network in PAIR_NETWORKS
    crossed = [(each.pairs.left.slot.name, each.pairs.right.slot.name) for each in crosses]
    found = Explainable(
        first_order=network in NETWORKS,
        pairs=pairs,
        crosses=tuple(crossed) if network == "wide_deep" else (),
        deep=network not in NETWORKS or network in DEEP_NETWORKS,
    )
    if found.first_order:
        model = onnx.load(graph, load_external_data=False)
        made = ModelProto()
        made.CopyFrom(model)
        made.graph.CopyFrom(_Terms(model.graph, network, layout).graph(len(found.crosses)))
        out.write_bytes(made.SerializeToString(deterministic=True))
    return found


class _Terms:
    """The nodes that give the terms, over the weights of an exported graph."""

    def __init__(self, whole: GraphProto, network: str, layout: Layout) -> None:
        self._whole = whole
        self._network = network
        self._layout = layout
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []

    def graph(self, crosses: int) -> GraphProto:
        """Return the graph; ``crosses`` are those of Wide & Deep."""
        layout = self._layout
        slots = len(layout.slots)
        rows = self._rows()
        weight = self._columns(rows, 0, 1)
        vector = self._columns(rows, 1, 2**31 - 1)
        if self._network == "deepfm":
            weight = self._trained_weight(weight, vector)
        self._add("Flatten", [weight], FIRST_ORDER, axis=1)
        pairs = [*combinations(range(slots), 2)]
        if self._network == "ffm" and pairs:
            self._ffm_pairs(vector, pairs)
        elif self._network in PAIR_NETWORKS and pairs:
            self._fm_pairs(vector, pairs)
        elif crosses:
            self._cross_terms(crosses)
        else:
            self._add("Slice", [FIRST_ORDER, *self._range(0, 0, 1)], PAIRS)
        self._add("Reshape", ["network.bias", self._constant([-1])], BIAS)
        return self._made()

    def _made(self) -> GraphProto:
        used = {name for node in self._nodes for name in node.input}
        made = GraphProto(name=self._whole.name)
        made.node.extend(self._nodes)
        made.initializer.extend(each for each in self._whole.initializer if each.name in used)
        made.initializer.extend(self._constants)
        made.input.extend(each for each in self._whole.input if each.name in used)
        for name, axes in ((BIAS, [1]), (FIRST_ORDER, [ROWS, None]), (PAIRS, [ROWS, None])):
            made.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, axes))
        return made

    def _add(
        self, operator: str, inputs: Sequence[str], name: str | None = None, **attributes: Any
    ) -> str:
        """Add a node; return the name of what it gives."""
        name = name or f"terms_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def _constant(self, value: Any, dtype: type[np.generic] = np.int64) -> str:
        name = f"terms_constant_{len(self._constants)}"
        array: NDArray[Any] = np.array(value, dtype)
        self._constants.append(onnx.numpy_helper.from_array(array, name))
        return name

    def _range(self, start: int, stop: int, axis: int) -> list[str]:
        """Return the inputs of a Slice along one axis."""
        return [self._constant([start]), self._constant([stop]), self._constant([axis])]

    def _columns(self, rows: str, start: int, stop: int) -> str:
        return self._add("Slice", [rows, *self._range(start, stop, 2)])

    def _rows(self) -> str:
        """Add the look-up of each slot's row of the table: [N, S, C], as ``Layout.slots``."""
        layout = self._layout
        found: list[str] = []
        for side, slots in (("context", layout.context), ("candidate", layout.candidate)):
            if slots:
                found.append(self._of_rows(side, self._single(side, slots)))
        for side, slots in (
            ("context", layout.context_lists),
            ("candidate", layout.candidate_lists),
        ):
            for number in range(len(slots)):
                found.append(self._of_rows(side, self._list(f"{side}_list_{number}")))
        return self._add("Concat", found, axis=1)

    def _of_rows(self, side: str, rows: str) -> str:
        """Give each row what its context has."""
        if side == "candidate":
            return rows
        return self._add("Gather", [rows, "row_context"], axis=0)

    def _single(self, side: str, slots: Sequence[Slot]) -> str:
        rows = self._add("Gather", [TABLE, side], axis=0)
        scaled = sum(slot.scaled for slot in slots)
        if not scaled:
            return rows
        plain = len(slots) - scaled
        axis = self._constant([2])
        numbers = self._add("Unsqueeze", [f"{side}_value", axis])
        late = self._add("Slice", [rows, *self._range(plain, len(slots), 1)])
        late = self._add("Mul", [late, numbers])
        early = self._add("Slice", [rows, *self._range(0, plain, 1)])
        return self._add("Concat", [early, late], axis=1)

    def _list(self, name: str) -> str:
        """Add the mean row [R, 1, C] of a list's values, whose padding is zero in the table."""
        axis = self._constant([1])
        rows = self._add("Gather", [TABLE, name], axis=0)
        total = self._add("ReduceSum", [rows, axis], keepdims=1)
        empty = self._add("Equal", [name, self._constant(PADDING, np.int32)])
        present = self._add("Cast", [self._add("Not", [empty])], to=TensorProto.FLOAT)
        count = self._add("ReduceSum", [present, axis], keepdims=1)
        count = self._add("Max", [count, self._constant(1, np.float32)])
        count = self._add("Unsqueeze", [count, self._constant([2])])
        return self._add("Div", [total, count])

    def _trained_weight(self, weight: str, vector: str) -> str:
        """Undo what DeepFM's serving form does to the first-order weights."""
        late = [
            slot.scaled or slot.name in self._layout.shared
            for slot in self._layout.context + self._layout.candidate
        ]
        late += [True] * (len(self._layout.slots) - len(late))
        halves = np.where(late, 0, 0.5).reshape(1, -1, 1)
        # "network.scale" is there only where it is needed in the graph that scores.
        scale = self._add("Slice", ["network.first_order", *self._range(0, 1, 0)])
        weight = self._add("Mul", [weight, scale])
        squares = self._add("ReduceSumSquare", [vector, self._constant([2])], keepdims=1)
        taken_off = self._add("Mul", [squares, self._constant(halves, np.float32)])
        return self._add("Add", [weight, taken_off])

    def _fm_pairs(self, vector: str, pairs: Sequence[tuple[int, int]]) -> None:
        slots = len(self._layout.slots)
        turned = self._add("Transpose", [vector], perm=[0, 2, 1])
        every = self._add("Flatten", [self._add("MatMul", [vector, turned])], axis=1)
        places = self._constant([i * slots + j for i, j in pairs])
        self._add("Gather", [every, places], PAIRS, axis=1)

    def _ffm_pairs(self, vector: str, pairs: Sequence[tuple[int, int]]) -> None:
        """Add <v_ij, v_ji>: v_ij is the vector of i's row toward the other field j.

        The network counts the fields of the context first, lists of it included.
        """
        layout = self._layout
        slots = len(layout.slots)
        order = layout.context + layout.context_lists + layout.candidate + layout.candidate_lists
        number = [order.index(slot) for slot in layout.slots]

        def place(i: int, j: int) -> int:
            return i * (slots - 1) + number[j] - (number[j] > number[i])

        width = next(each.dims[1] for each in self._whole.initializer if each.name == TABLE) - 1
        shape = self._constant([-1, slots * (slots - 1), width // (slots - 1)])
        every = self._add("Reshape", [vector, shape])
        left = self._constant([place(i, j) for i, j in pairs])
        right = self._constant([place(j, i) for i, j in pairs])
        product = self._add(
            "Mul",
            [
                self._add("Gather", [every, left], axis=1),
                self._add("Gather", [every, right], axis=1),
            ],
        )
        self._add("ReduceSum", [product, self._constant([2])], PAIRS, keepdims=0)

    def _cross_terms(self, crosses: int) -> None:
        """Take the nodes of the crosses' terms out of the whole graph, which adds them last."""
        made_by = {name: node for node in self._whole.node for name in node.output}
        column = self._constant([-1, 1])
        terms: list[str] = []
        total = "logit"
        kept: set[str] = set()
        for number in reversed(range(crosses)):
            total, term, names = _last_term(made_by, total, f"network.crosses.{number}.weight")
            kept |= names
            terms.insert(0, term)
        self._nodes += [node for node in self._whole.node if kept.issuperset(node.output)]
        self._add("Concat", [self._add("Reshape", [each, column]) for each in terms], PAIRS, axis=1)


def _last_term(made_by: dict[str, NodeProto], total: str, weight: str) -> tuple[str, str, set[str]]:
    """Return what a sum adds a term to, the term, and the values that lead to it.

    The term is the one that a weight decides.

    Raises:
        ExportError: the sum has no such term.
    """
    node = made_by.get(total)
    for place, name in enumerate(node.input if node is not None and node.op_type == "Add" else ()):
        found: set[str] = set()
        wanted = [name]
        leads = False
        while wanted:
            value = wanted.pop()
            leads |= value == weight
            before = made_by.get(value)
            if before is not None and value not in found:
                found.update(before.output)
                wanted += before.input
        if leads and not _reaches(made_by, name, TABLE):
            assert node is not None
            return node.input[1 - place], name, found
    raise ExportError(f"the graph does not add the term of {weight}")


def _reaches(made_by: dict[str, NodeProto], name: str, weight: str) -> bool:
    wanted, seen = [name], set[str]()
    while wanted:
        value = wanted.pop()
        if value == weight:
            return True
        if value in made_by and value not in seen:
            seen.add(value)
            wanted += made_by[value].input
    return False


def check_explain(network: Network, engine: Engine, terms: TermsGraph, data: Dataset) -> float:
    """Compare the terms with the network over the first rows; return how far they differ.

    What the terms leave of the network's logit has to be what its hidden layers give.

    Raises:
        ExportError: it differs by more than the engine's tolerance.
    """
    part = data.take(slice(0, CHECKED_ROWS))
    found = terms.of(batch_of(part))
    every = part.inputs()
    with torch.inference_mode():
        table, place = network.rows_of(every)
        deep_N = network.deep(
            look_up(table, place.context, place.context_lists, place.context_value),
            look_up(table, place.candidate, place.candidate_lists, place.candidate_value),
        )
        expected = network.logit(table, place, every) - deep_N
    worst = float(np.abs(found.total() - expected.double().numpy()).max(initial=0.0))
    if not worst <= engine.tolerance:
        raise ExportError(
            f"the terms of the network and those of its graph disagree by {worst:.2g};"
            f" {engine.tolerance:g} is allowed"
        )
    return worst
