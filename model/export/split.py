"""An exported graph in two: what depends on a candidate alone, and the rest.

A value of the graph depends on the context's inputs, on the candidate's, or on both; dynamic fields
of the candidate, whose values come with a request, count as a side of their own. The last values
that depend on the candidate alone, before they meet those of the context, are the *item part*: a
service computes it once for each item of its catalogue. ``candidate.onnx`` gives it, and
``combine.onnx`` takes it in the place of the candidate's inputs. Both consist of nodes of the whole
graph, quantised or not, so together they give its scores; weights in ``weights.bin`` are shared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path

import onnx
import onnx.numpy_helper
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from app.bundle.manifest import ItemParts
from app.features.graph_inputs import CONTEXTS, FIRST_CUT, ROWS, Scores, part_name
from app.features.layout import Layout
from model.export.first_cut import FirstCut, first_cut
from model.export.graph_builder import ExportError

_DYNAMIC = "dynamic"
_REPEATS = {"Expand", "Tile"}
"""Operators whose output holds its input several times: they stay behind the cut."""
_MOVES = {*_REPEATS, "Transpose", "Reshape", "Squeeze", "Unsqueeze"}
"""Operators that rearrange a value: one that is in the item part already is not kept twice."""


def write_split(
    graph: Path, network: str, layout: Layout, candidate: Path, combine: Path
) -> ItemParts:
    """Cut a graph, and write the two beside it, where the file of weights is.

    Raises:
        ExportError: nothing of the graph depends on the candidate alone.
    """
    model = onnx.load(graph, load_external_data=False)
    whole = Whole(onnx.shape_inference.infer_shapes(model).graph, layout)
    parts = whole.item_part()
    if not parts:
        raise ExportError("nothing of the graph depends on the candidate alone")
    cut = first_cut(model.graph, network, layout, parts)
    named = {value: part_name(number) for number, value in enumerate(parts)}
    one, other = whole.candidate(named, cut), whole.combine(named, cut)
    _write(model, one, candidate)
    _write(model, other, combine)
    return ItemParts(
        widths=tuple(whole.width(value) for value in parts),
        context=sum(map(whole.width, whole.context_part())),
        takes=tuple(each.name for each in other.input if each.name.startswith("candidate")),
        first_cut=None if cut is None else 1 + whole.width(cut.vector) - cut.left_out,
    )


def _write(model: ModelProto, graph: GraphProto, path: Path) -> None:
    made = ModelProto()
    made.CopyFrom(model)
    made.graph.CopyFrom(graph)
    path.write_bytes(made.SerializeToString(deterministic=True))


class Whole:
    """An exported graph, with the side or sides that each of its values depends on."""

    def __init__(self, graph: GraphProto, layout: Layout) -> None:
        self._graph = graph
        self._described = {
            value.name: value for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self._made_by = {name: node for node in graph.node for name in node.output}
        self._sides: dict[str, set[str]] = {
            value.name: {value.name.partition("_")[0]} for value in graph.input
        }
        lists = (slot.dynamic for slot in layout.candidate_lists)
        for number, dynamic in enumerate(lists):
            if dynamic:
                self._sides[f"candidate_list_{number}"] = {_DYNAMIC}
        self._columns = {
            "candidate": [slot.dynamic for slot in layout.candidate],
            "candidate_value": [slot.dynamic for slot in layout.candidate if slot.scaled],
        }
        self._constants = {each.name: each for each in graph.initializer}
        for node in graph.node:
            found = set().union(*(self._sides_of(name, node) for name in node.input))
            self._sides.update((name, found) for name in node.output)

    def _sides_of(self, value: str, node: NodeProto) -> set[str]:
        """Return the sides that a node depends on by one of its inputs."""
        columns = self._columns.get(value)
        if not columns or not any(columns):
            return self._sides.get(value, set())
        return {_DYNAMIC if columns[place] else "candidate" for place in self._read(node, columns)}

    def _read(self, node: NodeProto, columns: Sequence[bool]) -> Iterable[int]:
        """Return the columns that a node reads of its first input."""
        every = range(len(columns))
        given = [self._constants.get(name) for name in node.input[1:]]
        if None in given:
            return every
        numbers = [onnx.numpy_helper.to_array(each).ravel().tolist() for each in given if each]
        if node.op_type == "Gather" and node.attribute[0].i == 1:
            return numbers[0]
        if node.op_type == "Slice" and numbers[2] == [1]:
            return every[numbers[0][0] : numbers[1][0]]
        return every

    def width(self, value: str) -> int:
        """Return how many numbers a row of a value has."""
        return prod(self._row(value))

    def _row(self, value: str) -> list[int]:
        """Return the shape of a row of a value."""
        return [axis.dim_value for axis in self._described[value].type.tensor_type.shape.dim[1:]]

    def _is_rows(self, value: str) -> bool:
        """Tell whether a value is a row of numbers for each candidate."""
        found = self._described.get(value)
        if found is None or found.type.tensor_type.elem_type != TensorProto.FLOAT:
            return False
        axes = found.type.tensor_type.shape.dim
        return bool(axes) and not axes[0].dim_value and all(each.dim_value for each in axes[1:])

    def item_part(self) -> list[str]:
        """Return the values of the candidate's side with which values of both are computed."""
        own = {name for name, sides in self._sides.items() if sides == {"candidate"}}
        outputs = {value.name for value in self._graph.output}
        used = {
            name
            for node in self._graph.node
            if not own.issuperset(node.output)
            for name in node.input
            if name in own
        } | (own & outputs)
        found = {self._before(name, _REPEATS) for name in used}
        found = {name for name in found if self._is_rows(name)}
        twice = {name for name in found if self._before(name, _MOVES) in found - {name}}
        order = (name for node in self._graph.node for name in node.output)
        return [name for name in order if name in found - twice]

    def _before(self, value: str, operators: set[str]) -> str:
        """Return what a value was before some operators."""
        while value in self._made_by and self._made_by[value].op_type in operators:
            value = self._made_by[value].input[0]
        return value

    def context_part(self) -> list[str]:
        """Return the values of the context's side that are looked up for each row."""
        return list(
            dict.fromkeys(
                node.input[0]
                for node in self._graph.node
                if node.op_type == "Gather"
                and self._sides.get(node.input[0]) == {"context"}
                and self._sides.get(node.input[1]) == {"row"}
            )
        )

    def candidate(self, named: Mapping[str, str], cut: FirstCut | None) -> GraphProto:
        """Return the graph that gives the item part; ``named`` are its values and their names."""
        made = self._subgraph(named, named, (), cut and cut.candidate, cut, ROWS)
        if cut:
            # The average context takes the place of the inputs that tell of one.
            own = [each for each in made.input if each.name.startswith("candidate")]
            needed = {each.name for each in made.input}
            nodes = [*cut.before, *made.node]
            del made.input[:], made.node[:]
            made.input.extend(own)
            made.node.extend(nodes)
            made.initializer.extend(each for each in cut.average if each.name in needed)
        return made

    def combine(self, named: Mapping[str, str], cut: FirstCut | None) -> GraphProto:
        """Return the graph that takes the item part and gives the scores."""
        return self._subgraph(Scores._fields, named, named, cut and cut.context, cut, CONTEXTS)

    def _subgraph(
        self,
        ends: Collection[str],
        named: Mapping[str, str],
        starts: Collection[str],
        added: Sequence[NodeProto] | None,
        cut: FirstCut | None,
        axis: str,
    ) -> GraphProto:
        """Return the nodes that lead from ``starts``, and inputs, to ``ends``; and the added ones.

        Values are renamed as ``named`` says. The last of the added nodes gives another output.
        """
        ends = list(ends)
        nodes = self._nodes_before(
            [*ends, *(name for node in added or () for name in node.input)], set(starts)
        )
        made = GraphProto(name=self._graph.name)
        for node in [*nodes, *(added or ())]:
            copy = made.node.add()
            copy.CopyFrom(node)
            copy.input[:] = [named.get(name, name) for name in node.input]
            copy.output[:] = [named.get(name, name) for name in node.output]
        used = {name for node in made.node for name in node.input}
        constants = [*self._graph.initializer, *(cut.constants if cut else ())]
        made.initializer.extend(each for each in constants if each.name in used)
        made.input.extend(each for each in self._graph.input if each.name in used)
        made.input.extend(self._rows_of(value, named[value]) for value in starts)
        made.output.extend(self._rows_of(value, named.get(value, value)) for value in ends)
        if added:
            made.output.append(
                helper.make_tensor_value_info(FIRST_CUT, TensorProto.FLOAT, [axis, None])
            )
        return made

    def _nodes_before(self, ends: Collection[str], starts: set[str]) -> list[NodeProto]:
        """Return the nodes that values depend on, as far as ``starts``, in their order."""
        wanted, found = list(ends), set()
        while wanted:
            name = wanted.pop()
            node = None if name in starts else self._made_by.get(name)
            if node is not None and node.output[0] not in found:
                found.add(node.output[0])
                wanted += node.input
        return [node for node in self._graph.node if node.output[0] in found]

    def _rows_of(self, value: str, name: str) -> ValueInfoProto:
        """Return the description of an input or output that holds a value of each row."""
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, *self._row(value)])
