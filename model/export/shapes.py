"""Results of torch's functions over tensors without content: their shapes and types.

torch tells that itself, by running over such tensors. But for the functions here it does so in
Python, and imports its compiler and sympy for that: one or two seconds of each training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

ELEMENTWISE = frozenset(
    {
        *("__rdiv__", "add", "clamp", "div", "exp", "ge", "gt", "minimum", "mul", "ne", "neg"),
        *("relu", "sigmoid", "square", "sub", "tanh", "where", "zeros_like"),
    }
)
"""Functions whose result has as many elements as their operands, which are repeated to fit."""


def result_of(
    func: Callable[..., Any], name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Return what a function gives, without content, as it itself would.

    Raises:
        RuntimeError, TypeError, ValueError, IndexError: it cannot be called like this.
    """
    if name in ELEMENTWISE:
        shapes = [each.shape for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        return _without_content(
            np.broadcast_shapes(*shapes), _over_one_element(func, args, kwargs).dtype
        )
    shaped = _OTHERS.get(name)
    return func(*args, **kwargs) if shaped is None else shaped(func, *args, **kwargs)


def _over_one_element(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Return what a function computes of tensors of as many axes, with one element each."""

    def one(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        return torch.ones([1] * value.dim(), dtype=value.dtype)

    return func(*tree_map(one, args), **tree_map(one, kwargs))


def _linear(
    func: Callable[..., Any], input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Any:
    """A layer's bias, one for each of its outputs, does not change the shape."""
    if weight.dim() != 2:
        return func(input, weight)
    dtype = _over_one_element(func, (input, weight, bias), {}).dtype
    _match(input.shape[-1], weight.shape[-1])
    return _without_content((*input.shape[:-1], weight.shape[0]), dtype)


def _sum(
    func: Callable[..., Any],
    input: Tensor,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    **options: Any,
) -> Tensor:
    """Without axes, over all of them."""
    one = _over_one_element(func, (input, dim, keepdim), options)
    axes = range(input.dim())
    given = () if dim is None else np.atleast_1d(np.array(dim, np.int64))
    summed = [axes[each] for each in given] or axes
    sizes = (1 if axis in summed else size for axis, size in enumerate(input.shape))
    return _without_content(
        [size for axis, size in enumerate(sizes) if keepdim or axis not in summed], one.dtype
    )


def _repeat(func: Callable[..., Any], input: Tensor, *times: Any) -> Tensor:
    """The last axes are the tensor's own, those before them have one element."""
    one = _over_one_element(func, (input, *times), {})
    sizes = (1,) * (one.dim() - input.dim()) + tuple(input.shape)
    return _without_content(
        [size * count for size, count in zip(sizes, one.shape, strict=True)], one.dtype
    )


def _matmul(func: Callable[..., Any], input: Tensor, other: Tensor) -> Any:
    """Stacks of matrices are repeated to fit; torch itself is asked of vectors."""
    if min(input.dim(), other.dim()) < 2:
        return func(input, other)
    dtype = _over_one_element(func, (input, other), {}).dtype
    _match(input.shape[-1], other.shape[-2])
    stack = np.broadcast_shapes(input.shape[:-2], other.shape[:-2])
    return _without_content((*stack, input.shape[-2], other.shape[-1]), dtype)


def _embedding(
    func: Callable[..., Any], input: Tensor, weight: Tensor, *training: object, **others: object
) -> Tensor:
    """A row of the table for each index, whatever a training does with the table."""
    one = func(
        torch.zeros([1] * input.dim(), dtype=input.dtype),
        torch.ones([1] * weight.dim(), dtype=weight.dtype),
    )
    return _without_content((*input.shape, weight.shape[1]), one.dtype)


def _cat(func: Callable[..., Any], tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The sizes of the axis are added up; all others must be equal."""
    result = _over_one_element(func, (tensors, dim), {})
    axis = range(result.dim())[dim]
    others = {(*each.shape[:axis], *each.shape[axis + 1 :]) for each in tensors}
    if len(others) > 1:
        raise ValueError("tensors have different sizes beside the axis along which they are joined")
    shape = list(tensors[0].shape)
    shape[axis] = sum(each.shape[axis] for each in tensors)
    return _without_content(shape, result.dtype)


def _match(size: int, other: int) -> None:
    if size != other:
        raise ValueError(f"{size} elements and {other} of another tensor cannot be multiplied")


def _without_content(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


_OTHERS: Mapping[str, Callable[..., Any]] = {
    "cat": _cat, "embedding": _embedding, "linear": _linear, "matmul": _matmul, "repeat": _repeat,
    "sum": _sum,
}  # fmt: skip
