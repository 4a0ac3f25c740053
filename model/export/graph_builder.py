"""An ONNX graph in the making: its nodes, its constants, and the sizes that vary between batches.

A module is traced with an example of each axis that varies, a large prime: no layer has that size
by chance. A size of the graph is one of a batch if it is such a number, a product of it, or the
length of what was joined along such an axis.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper
from torch import Tensor

from app.errors import CtrError
from app.features.graph_inputs import GraphInput

OPSET, IR_VERSION = 20, 10
EVERY = 2**63 - 1
"""The end of a slice that has none."""


class ExportError(CtrError):
    """A network cannot be exported, or its graph does not agree with it."""


class Value(Tensor):
    """A value of a graph: a tensor without content that knows its name in the graph."""

    graph: GraphBuilder
    value: str


def element_type(dtype: torch.dtype) -> int:
    """Return ONNX' number of a type."""
    return int(helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=dtype).numpy().dtype))


class GraphBuilder:
    """Nodes in their order, and what they need. Values are known by their names."""

    def __init__(self, least: int) -> None:
        """Begin without nodes; examples of axes that vary are primes above ``least``."""
        self._last = least
        self.function = "value"
        """The function that runs: its values are named after it."""
        self.outputs: list[str] = []
        """The values that the module returns."""
        self._nodes: list[NodeProto] = []
        self._made: dict[bytes, list[str]] = {}
        self._inputs: list[ValueInfoProto] = []
        self._described: dict[str, ValueInfoProto] = {}
        self._constants: dict[str, NDArray[Any]] = {}
        self._own: dict[int, str] = {}
        self._named: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._taken: dict[str, int] = {}
        self._axes: dict[str, int] = {}
        self._varying: dict[int, tuple[str, int]] = {}
        """By each size of a batch that values have: one of them, and its axis."""

    def sizes_of(self, axes: Iterable[str | int]) -> list[int]:
        """Return the example of a shape whose named axes vary."""
        return [self._size_of(axis) if isinstance(axis, str) else axis for axis in axes]

    def _size_of(self, axis: str) -> int:
        if axis not in self._axes:
            self._last = self._axes[axis] = _next_prime(self._last)
        return self._axes[axis]

    def input(self, given: GraphInput, shaped: Tensor) -> str:
        """Add an input; return its name."""
        self._taken[given.name] = 1
        self._note_sizes(given.name, shaped)
        self._inputs.append(self._description(given.name, shaped))
        return given.name

    def own(self, name: str, tensor: Tensor) -> str:
        """Add a tensor of the module, which has its name in the graph; return the name."""
        self._taken[name] = 1
        self._constants[name] = tensor.detach().contiguous().numpy()
        self._own[id(tensor)] = name
        return name

    def described(self, value: str, shaped: Tensor) -> str:
        """Note the shape and type of a value, and return its name."""
        if value not in self._described:
            self._note_sizes(value, shaped)
            self._described[value] = self._description(value, shaped)
        return value

    def _description(self, value: str, shaped: Tensor) -> ValueInfoProto:
        names = {size: name for name, size in self._axes.items()}
        axes = [names.get(size) if self.varies(size) else size for size in shaped.shape]
        return helper.make_tensor_value_info(value, element_type(shaped.dtype), axes)

    def _note_sizes(self, value: str, shaped: Tensor) -> None:
        for place, size in enumerate(shaped.shape):
            if self.varies(size):
                self._varying.setdefault(size, (value, place))

    def varies(self, size: int) -> bool:
        """Tell whether a size is one of a batch."""
        return size in self._varying or any(
            size and size % axis == 0 for axis in self._axes.values()
        )

    def joined(self, size: int, value: str, place: int) -> None:
        """Note the length of an axis along which values are joined that vary."""
        self._varying.setdefault(size, (value, place))

    def fixed(self, numbers: Sequence[int]) -> list[int]:
        """Return numbers that are the same for each batch.

        Raises:
            ExportError: one is a size of the example.
        """
        if any(map(self.varies, map(abs, numbers))):
            raise ExportError(
                f"{self.function} takes the size of a batch as a fixed number, which a graph cannot"
            )
        return list(numbers)

    def sizes(self, numbers: Sequence[int]) -> str:
        """Return a value int64 [A] of sizes, of which some may be those of a batch."""
        if not any(map(self.varies, numbers)):
            return self.integers(numbers)
        pieces = [self._size(each) for each in numbers]
        return pieces[0] if len(pieces) == 1 else self.node("Concat", *pieces, axis=0)

    def _size(self, number: int) -> str:
        if not self.varies(number):
            return self.integers([number])
        if number in self._varying:
            value, place = self._varying[number]
            return self.node("Shape", value, start=place, end=place + 1)
        factor = next(size for size in self._axes.values() if number % size == 0)
        return self.node("Mul", self._size(factor), self._size(number // factor))

    def name_of(self, value: Any, dtype: torch.dtype | None = None) -> str:
        """Return the name of a traced value, of a tensor that is constant or of a number.

        With a type it is a value of that type.
        """
        if isinstance(value, Value):
            name = value.value
            if dtype is None or value.dtype == dtype:
                return name
            return self.node("Cast", name, to=element_type(dtype))
        if isinstance(value, Tensor):
            if id(value) in self._own and dtype in (None, value.dtype):
                return self._own[id(value)]
            return self._constant(value.detach().to(dtype or value.dtype).contiguous().numpy())
        if isinstance(value, int):
            self.fixed([value])
        return self._constant(torch.tensor(value, dtype=dtype).numpy())

    def integers(self, numbers: Sequence[int]) -> str:
        """Return the name of a constant int64 [A]."""
        return self._constant(np.array(self.fixed(numbers), np.int64))

    def _constant(self, content: NDArray[Any]) -> str:
        self.fixed(content.shape)
        key = str(content.dtype), content.shape, content.tobytes()
        if key not in self._named:
            self._named[key] = self._new_name("constant")
            self._constants[self._named[key]] = content
        return self._named[key]

    def _new_name(self, kind: str) -> str:
        number = self._taken.get(kind, 0)
        self._taken[kind] = number + 1
        return f"{kind}_{number}" if number else kind

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; return its name."""
        return self.nodes(operator, 1, *inputs, **attributes)[0]

    def nodes(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node, unless there is an equal one; return the names of its outputs."""
        node = helper.make_node(operator, inputs, [], **attributes)
        key = node.SerializeToString(deterministic=True)
        if key not in self._made:
            self._made[key] = [self._new_name(self.function) for _ in range(outputs)]
            node.output.extend(self._made[key])
            self._nodes.append(node)
        return self._made[key]

    def difference(self, other: GraphBuilder) -> str | None:
        """Return the function at which another graph begins to differ, None if it is the same.

        Both are of one module, so that its own tensors are the same.
        """
        ours, theirs = self._deciding(), other._deciding()
        for (name, mine), (_, its) in zip(ours, theirs, strict=False):
            if mine != its:
                return re.sub(r"_\d+$", "", name)
        return None if len(ours) == len(theirs) else "the network"

    def _deciding(self) -> list[tuple[str, list[object]]]:
        """Return each node that the outputs need, with its constants and its shapes."""
        constants = {name: key for key, name in self._named.items()}
        return [
            (
                node.output[0],
                [node, *map(constants.get, node.input), *map(self._described.get, node.output)],
            )
            for node in self._needed()
        ]

    def model(self, names: Sequence[str]) -> ModelProto:
        """Return the graph of what its outputs need, which get other names. It is used up.

        Raises:
            ExportError: an output is no result of a node, or is two of them.
        """
        nodes = self._needed()
        made = {name for node in nodes for name in node.output}
        if len(made.intersection(self.outputs)) < len(names):
            raise ExportError("an output of the network is one of its inputs, or another output")
        renamed = dict(zip(self.outputs, names, strict=True))
        described = {renamed.get(name, name): each for name, each in self._described.items()}
        for node in nodes:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        for name, each in described.items():
            each.name = name
        read = {name for node in nodes for name in node.input}
        between = [name for node in nodes for name in node.output if name not in names]
        graph = GraphProto(name="main_graph")
        graph.node.extend(nodes)
        graph.input.extend(self._inputs)
        graph.output.extend(described[name] for name in names)
        graph.value_info.extend(described[name] for name in between if name in described)
        model = helper.make_model(
            graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
        )
        for name, content in self._constants.items():
            if name in read:
                # Into its place at once: a table may take most of the memory.
                model.graph.initializer.add(
                    name=name,
                    dims=content.shape,
                    data_type=helper.np_dtype_to_tensor_dtype(content.dtype),
                    raw_data=content.tobytes(),
                )
        return model

    def _needed(self) -> list[NodeProto]:
        wanted, nodes = set(self.outputs), []
        for node in reversed(self._nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                nodes.append(node)
        return nodes[::-1]


def _next_prime(number: int) -> int:
    number += 1 + number % 2
    while any(number % divisor == 0 for divisor in range(3, math.isqrt(number) + 1, 2)):
        number += 2
    return number
