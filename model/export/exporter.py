"""A module's forward pass as an ONNX graph: it runs, and each function of torch leaves its nodes.

It runs over tensors that have a shape and a type and no content (torch's ``meta`` device), so this
takes milliseconds and looks at no weight. Weights (float32) are values of the graph too, so what is
computed of them is computed there; what is computed of other tensors is a constant.

What Python computes by itself leaves no nodes. So the module runs twice, with batches of different
sizes: a number that is computed of a size makes two graphs that differ, which is refused. Branches
are not seen: an ``if`` over a size takes the way of a large batch, and only ``parity.py`` tells.
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
from model.export.shapes import result_of
from model.networks.exporting import exporting

TABLE = "network.table"
"""Name of the weights of which there are rows for values, in a graph."""
LEAST_EXAMPLES = (2**17, 2**18, 2**19)
"""Least size of an axis that varies, in each example that a module may run over."""
TORCH_FAILS = (RuntimeError, TypeError, ValueError, IndexError)
"""Errors of a function of torch that needs the content of a tensor which has none."""


def onnx_model(module: nn.Module, inputs: Sequence[GraphInput]) -> ModelProto:
    """Return a module in evaluation mode as an ONNX model, all named axes symbolic.

    ``module`` takes the first three inputs and the list of the others. Its parameters and buffers
    are initializers under their names in it.

    Raises:
        ExportError: it calls a function that has no operators, or does with a size of a batch what
            a graph cannot do with one that varies.
    """
    graphs: list[GraphBuilder] = []
    complaints: list[ExportError] = []
    for least in LEAST_EXAMPLES:
        try:
            graph = _traced(module, inputs, GraphBuilder(least))
        except ExportError as error:
            complaints.append(error)
            continue
        if any(each.difference(graph) is None for each in graphs):
            return graph.model(Scores._fields)
        graphs.append(graph)
    # A number of the network may be a size of one example by chance, but not of two.
    if len(graphs) < 2:
        raise complaints[0]
    raise ExportError(
        f"{graphs[0].difference(graphs[1])} depends on a number that is computed of the size of a"
        " batch, which a graph cannot hold"
    )


def _traced(module: nn.Module, inputs: Sequence[GraphInput], graph: GraphBuilder) -> GraphBuilder:
    """Return a graph with all that a module does, and with its outputs."""
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
    try:
        with torch.no_grad(), exporting():
            outputs = functional_call(module, weights, (*given[:3], given[3:]))
    except TORCH_FAILS as error:
        raise ExportError(
            f"the network does not run over tensors without content: {_first_line(error)}"
        ) from error
    if not all(isinstance(each, Traced) for each in outputs):
        raise ExportError("an output of the network is not computed of its inputs")
    graph.outputs = [each.value for each in outputs]
    return graph


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
        name = _name_of(func)
        with torch._C.DisableTorchFunctionSubclass():
            try:
                shaped: Any = result_of(
                    func, name, tree_map(_shape_of, args), tree_map(_shape_of, kwargs)
                )
            except TORCH_FAILS as error:
                raise ExportError(
                    f"the network calls torch's {name}, which does not run over a tensor without"
                    f" content: {_first_line(error)}"
                ) from error
            if _in_place(func, name, shaped, kwargs):
                raise ExportError(
                    f"the network calls torch's {name} to change a value in place, which a graph"
                    " cannot: use a function that returns a new one"
                )
            results = tree_leaves(shaped)
            if not any(isinstance(each, Tensor) for each in results):
                # Such as its size or its type.
                return shaped
            graph = next(x.graph for x in tree_leaves((args, kwargs)) if isinstance(x, cls))
            operator = OPERATORS.get(name)
            if operator is None:
                raise ExportError(
                    f"the network calls torch's {name}, for which model/export/operators.py has no"
                    " operators of ONNX: add them there, or use another function"
                )
            graph.function = name.strip("_")
            try:
                values = operator(graph, shaped, *args, **kwargs)
            except (TypeError, ValueError, LookupError) as error:
                raise ExportError(
                    f"the network calls torch's {name} in a way that model/export/operators.py does"
                    f" not know: {_first_line(error)}"
                ) from error
            if isinstance(shaped, Tensor):
                return cls.of(shaped, graph, graph.described(values, shaped))
            pairs = zip(shaped, values, strict=True)
            return tuple(cls.of(each, graph, graph.described(v, each)) for each, v in pairs)


def _name_of(func: Callable[..., Any]) -> str:
    """Return a function's name, or that of the attribute which it gets or sets."""
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__"):
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name


def _in_place(
    func: Callable[..., Any], name: str, shaped: object, kwargs: Mapping[str, Any]
) -> bool:
    """Tell whether a call changes a tensor, instead of making a value."""
    if kwargs.get("inplace") or kwargs.get("out") is not None:
        return True
    # Such as __setitem__; an attribute may be None.
    gives_nothing = shaped is None and getattr(func, "__name__", "") != "__get__"
    return gives_nothing or (name.endswith("_") and not name.endswith("__"))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _shape_of(value: object) -> object:
    """Return a tensor without content in the place of one."""
    if isinstance(value, Traced):
        return value.as_subclass(Tensor)
    return value.to("meta") if isinstance(value, Tensor) else value
