"""Functions of torch as operators of ONNX: those that networks call.

An entry of ``OPERATORS`` is called as the function is, after the graph and what the function gives
(tensors without content); it adds nodes and returns the name of its value, or the names of several.
A network with another function needs an entry here: the exporter names it. An entry takes only
arguments that it obeys: the exporter refuses a call with others, and all that change a value in
place. Axes may be counted from the end, and the operands' types may differ from the result's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx.numpy_helper
import torch
from torch import Tensor

from model.export.graph_builder import EVERY, ExportError, GraphBuilder, element_type


def _unary(operator: str) -> Callable[..., str]:
    def emit(graph: GraphBuilder, result: Tensor, value: Tensor, **_: Any) -> str:
        return graph.node(operator, graph.name_of(value, result.dtype))

    return emit


def _binary(operator: str) -> Callable[..., str]:
    """An operator whose operands have the result's type."""

    def emit(graph: GraphBuilder, result: Tensor, left: Any, right: Any) -> str:
        dtype = _counted(result.dtype)
        found = graph.node(operator, *(graph.name_of(each, dtype) for each in (left, right)))
        if dtype == result.dtype:
            return found
        return graph.node("Cast", found, to=element_type(result.dtype))

    return emit


def _comparison(*operators: str) -> Callable[..., str]:
    def emit(graph: GraphBuilder, result: Tensor, left: Any, right: Any) -> str:
        dtype = _counted(torch.result_type(left, right))
        names = [graph.name_of(each, dtype) for each in (left, right)]
        for operator in operators:
            names = [graph.node(operator, *names)]
        return names[0]

    return emit


def _counted(dtype: torch.dtype) -> torch.dtype:
    """Return a type that ONNX computes with: truth values are numbers there."""
    return torch.int32 if dtype == torch.bool else dtype


def _reversed_div(graph: GraphBuilder, result: Tensor, right: Tensor, left: Any) -> str:
    if left == 1:
        return graph.node("Reciprocal", graph.name_of(right, result.dtype))
    return graph.node("Div", *(graph.name_of(each, result.dtype) for each in (left, right)))


def _square(graph: GraphBuilder, result: Tensor, value: Tensor) -> str:
    return graph.node("Mul", *[graph.name_of(value, result.dtype)] * 2)


def _same(graph: GraphBuilder, result: Tensor, value: Tensor) -> str:
    return graph.name_of(value)


def _to(graph: GraphBuilder, result: Tensor, value: Tensor, *_: Any, **__: Any) -> str:
    return graph.name_of(value, result.dtype)


def _linear(
    graph: GraphBuilder, result: Tensor, value: Tensor, weight: Tensor, bias: Tensor | None = None
) -> str:
    if result.dim() != 2:
        raise ExportError("a linear layer of the network has an input that is no matrix")
    given = [each for each in (value, weight, bias) if each is not None]
    return graph.node("Gemm", *map(graph.name_of, given), transB=1)


def _embedding(
    graph: GraphBuilder, result: Tensor, index: Tensor, table: Tensor, *_: Any, **given: Any
) -> str:
    if given.get("max_norm") is not None:
        raise ExportError("embedding with max_norm changes its table")
    return graph.node("Gather", graph.name_of(table), graph.name_of(index), axis=0)


def _index_select(
    graph: GraphBuilder, result: Tensor, value: Tensor, dim: int, index: Tensor
) -> str:
    return graph.node("Gather", graph.name_of(value), graph.name_of(index), axis=dim)


def _cat(graph: GraphBuilder, result: Tensor, values: Sequence[Tensor], dim: int = 0) -> str:
    # An axis counted from the end is not one to ask for sizes of.
    dim %= result.dim()
    values = [each for each in values if each.shape[dim]] or values[:1]
    names = [graph.name_of(each, result.dtype) for each in values]
    if len(names) == 1:
        return names[0]
    joined = graph.node("Concat", *names, axis=dim)
    if any(graph.varies(each.shape[dim]) for each in values):
        graph.joined(result.shape[dim], joined, dim)
    return joined


def _split(
    graph: GraphBuilder, result: Sequence[Tensor], value: Tensor, sizes: Any, dim: int = 0
) -> list[str]:
    inputs = graph.name_of(value), graph.integers([each.shape[dim] for each in result])
    return graph.nodes("Split", len(result), *inputs, axis=dim)


def _squeeze(graph: GraphBuilder, result: Tensor, value: Tensor, dim: int) -> str:
    if result.dim() == value.dim():
        raise ExportError(f"squeeze of an axis of size {value.shape[dim]}, which is not 1")
    return graph.node("Squeeze", graph.name_of(value), graph.integers([dim]))


def _unsqueeze(graph: GraphBuilder, result: Tensor, value: Tensor, dim: int) -> str:
    return graph.node("Unsqueeze", graph.name_of(value), graph.integers([dim]))


def _reshaped(graph: GraphBuilder, result: Tensor, value: Tensor, /, *_: Any, **__: Any) -> str:
    """A value in another shape; one size that varies is what the others leave."""
    name = graph.name_of(value)
    if result.shape == value.shape:
        return name
    varying = [place for place, size in enumerate(result.shape) if graph.varies(size)]
    if len(varying) < 2 and 0 not in result.shape:
        shape = [-1 if place in varying else size for place, size in enumerate(result.shape)]
        return graph.node("Reshape", name, graph.integers(shape))
    # Zeros are meant, such as those of a batch without rows.
    return graph.node("Reshape", name, graph.sizes(result.shape), allowzero=1)


def _item(graph: GraphBuilder, result: Tensor, value: Tensor, key: Any) -> str:
    """Slices and numbers along the first axes."""
    name, dim = graph.name_of(value), 0
    for each, size in zip(key if isinstance(key, tuple) else (key,), value.shape, strict=False):
        if isinstance(each, int) and not isinstance(each, bool):
            [number] = graph.fixed([each])
            place = graph.name_of(number, torch.int64)
            name = graph.node("Gather", name, place, axis=dim)
            continue
        if not isinstance(each, slice) or each.step not in (None, 1):
            raise ExportError(f"a value of the network is indexed by {each!r}")
        start, stop = each.start or 0, EVERY if each.stop is None else each.stop
        if graph.varies(stop) and stop > size:
            raise ExportError("a part of a value may be longer than the value")
        if start or stop < size:
            ends = graph.sizes([start]), graph.sizes([stop])
            name = graph.node("Slice", name, *ends, graph.integers([dim]), graph.integers([1]))
        dim += 1
    return name


def _sum(
    graph: GraphBuilder, result: Tensor, value: Tensor, dim: int, keepdim: bool = False
) -> str:
    # onnxruntime 1.31 does nothing along an axis counted from the end if there are no rows.
    inputs = graph.name_of(value, result.dtype), graph.integers([dim % value.dim()])
    return graph.node("ReduceSum", *inputs, keepdims=int(keepdim))


def _clamp(
    graph: GraphBuilder, result: Tensor, value: Tensor, min: Any = None, max: Any = None
) -> str:
    if any(isinstance(each, Tensor) and each.dim() for each in (min, max)):
        raise ExportError("clamp takes numbers alone as its bounds; minimum takes a tensor")
    bounds = ["" if each is None else graph.name_of(each, result.dtype) for each in (min, max)]
    return graph.node("Clip", graph.name_of(value, result.dtype), *bounds)


def _where(graph: GraphBuilder, result: Tensor, chosen: Tensor, left: Any, right: Any) -> str:
    if chosen.dtype != torch.bool or result.dtype == torch.bool:
        # The method takes the condition second.
        raise ExportError("where: call torch.where, of numbers, with the condition first")
    names = [graph.name_of(each, result.dtype) for each in (left, right)]
    return graph.node("Where", graph.name_of(chosen), *names)


def _transpose(graph: GraphBuilder, result: Tensor, value: Tensor, left: int, right: int) -> str:
    order = list(range(value.dim()))
    order[left], order[right] = order[right], order[left]
    return graph.node("Transpose", graph.name_of(value), perm=order)


def _pad(
    graph: GraphBuilder, result: Tensor, value: Tensor, /, pad: Sequence[int], **given: Any
) -> str:
    """Zeros before and after the last axes, of which torch tells the last first."""
    if given.get("mode", "constant") != "constant" or given.get("value"):
        raise ExportError("pad with other values than zeros")
    rest = [0] * (value.dim() - len(pad) // 2)
    pads = [*rest, *reversed(pad[::2]), *rest, *reversed(pad[1::2])]
    return graph.node("Pad", graph.name_of(value), graph.integers(pads))


def _expand(graph: GraphBuilder, result: Tensor, value: Tensor, *_: Any, **__: Any) -> str:
    return graph.node("Expand", graph.name_of(value), graph.sizes(result.shape))


def _repeat(graph: GraphBuilder, result: Tensor, value: Tensor, *times: int) -> str:
    if result.dim() != value.dim():
        raise ExportError("repeat along an axis that the value does not have")
    return graph.node("Tile", graph.name_of(value), graph.integers(times))


def _zeros(graph: GraphBuilder, result: Tensor, *_: Any, **__: Any) -> str:
    shape = graph.sizes(result.shape)
    zero = onnx.numpy_helper.from_array(torch.zeros(1, dtype=result.dtype).numpy())
    return graph.node("ConstantOfShape", shape, value=zero)


OPERATORS: dict[str, Callable[..., Any]] = {
    "__getitem__": _item,
    "__rdiv__": _reversed_div,
    "add": _binary("Add"),
    "cat": _cat,
    "clamp": _clamp,
    "contiguous": _same,
    "div": _binary("Div"),
    "embedding": _embedding,
    "exp": _unary("Exp"),
    "expand": _expand,
    "flatten": _reshaped,
    "ge": _comparison("GreaterOrEqual"),
    "gt": _comparison("Greater"),
    "index_select": _index_select,
    "linear": _linear,
    "matmul": _binary("MatMul"),
    "minimum": _binary("Min"),
    "mul": _binary("Mul"),
    "ne": _comparison("Equal", "Not"),
    "neg": _unary("Neg"),
    "new_zeros": _zeros,
    "pad": _pad,
    "relu": _unary("Relu"),
    "repeat": _repeat,
    "reshape": _reshaped,
    "sigmoid": _unary("Sigmoid"),
    "split": _split,
    "square": _square,
    "squeeze": _squeeze,
    "sub": _binary("Sub"),
    "sum": _sum,
    "tanh": _unary("Tanh"),
    "to": _to,
    "transpose": _transpose,
    "unsqueeze": _unsqueeze,
    "where": _where,
    "zeros_like": _zeros,
}
