"""A module's forward pass as an ONNX graph: it runs once, and each operation leaves its nodes.

It runs over tensors that have a shape and a type and no content (torch's ``meta`` device), so this
takes milliseconds and looks at no weight. Weights are values of the graph too, so what is computed
of them is computed there; what is computed of other tensors is a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Self

import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from app.features.graph_inputs import GraphInput, Scores
from model.export.graph_builder import ExportError, GraphBuilder, Value
from model.export.operators import OPERATORS
from model.networks.exporting import exporting

TABLE = "network.table"
"""Name of the weights of which there are rows for values, in a graph."""
LEAST_EXAMPLE = 2**17
"""Least size of an axis that varies, in the example that a module runs over."""


def onnx_model(module: nn.Module, inputs: Sequence[GraphInput]) -> ModelProto:
    """Return a module in evaluation mode as an ONNX model, all named axes symbolic.

    ``module`` takes the first three inputs and the list of the others. Its parameters and buffers
    are initializers under their names in it.

    Raises:
        ExportError: it calls a function that has no operators, or does with a size of a batch what
            a graph cannot do with one that varies.
    """
    try:
        return _traced(module, inputs, GraphBuilder(LEAST_EXAMPLE))
    except ExportError:
        # A number of the network may be one of the example's sizes by chance, but not twice.
        return _traced(module, inputs, GraphBuilder(2 * LEAST_EXAMPLE))


def _traced(module: nn.Module, inputs: Sequence[GraphInput], graph: GraphBuilder) -> ModelProto:
    given = []
    for each in inputs:
        shape, dtype = graph.sizes_of(each.axes), getattr(torch, each.dtype)
        shaped = torch.empty(shape, dtype=dtype, device="meta")
        given.append(Traced.of(shaped, graph, graph.input(each, shaped)))
    weights: dict[str, Tensor] = {}
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        value = graph.own(name, tensor)
        if tensor.dtype == torch.float32:
            weights[name] = Traced.of(tensor.detach().to("meta"), graph, value)
    with torch.no_grad(), exporting():
        outputs = functional_call(module, weights, (*given[:3], given[3:]))
    return graph.model([each.value for each in outputs], Scores._fields)


class Traced(Value):
    """A value that leads every function of torch to which it is given here."""

    @classmethod
    def of(cls, shaped: Tensor, graph: GraphBuilder, value: str) -> Self:
        """Return a value of a graph with the shape and type of a tensor."""
        traced = shaped.as_subclass(cls)
        traced.graph, traced.value = graph, value
        return traced

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            shaped: Any = func(*tree_map(_shape_of, args), **tree_map(_shape_of, kwargs))
            results = tree_leaves(shaped)
            if not any(isinstance(each, Tensor) for each in results):
                # Such as its size or its type.
                return shaped
            graph = next(x.graph for x in tree_leaves((args, kwargs)) if isinstance(x, cls))
            name = getattr(func, "__name__", str(func))
            operator = OPERATORS.get(name)
            if operator is None:
                raise ExportError(
                    f"the network calls torch's {name}, for which model/export/operators.py has no"
                    " operators of ONNX: add them there, or use another function"
                )
            graph.function = name.strip("_")
            values = operator(graph, shaped, *args, **kwargs)
            if isinstance(shaped, Tensor):
                return cls.of(shaped, graph, graph.described(values, shaped))
            pairs = zip(shaped, values, strict=True)
            return tuple(cls.of(each, graph, graph.described(v, each)) for each, v in pairs)


def _shape_of(value: object) -> object:
    """Return a tensor without content in the place of one."""
    if isinstance(value, Traced):
        return value.as_subclass(Tensor)
    return value.to("meta") if isinstance(value, Tensor) else value
