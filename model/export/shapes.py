"""Results of torch's functions over tensors without content: their shapes and types.

torch tells that itself, by running over such tensors. But for the functions here it does so in
Python, and imports its compiler for that, which takes a second of CPU time in each training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map

ELEMENTWISE = frozenset(
    {
        *("__rdiv__", "add", "clamp", "div", "exp", "ge", "gt", "minimum", "mul", "ne", "neg"),
        *("relu", "sigmoid", "square", "sub", "tanh", "where"),
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
    if name == "linear":
        return _linear(*args, **kwargs)
    if name == "cat":
        return _cat(func, *args, **kwargs)
    return func(*args, **kwargs)


def _over_one_element(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Return what a function computes of tensors of as many axes, with one element each."""

    def one(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        return torch.ones([1] * value.dim(), dtype=value.dtype)

    return func(*tree_map(one, args), **tree_map(one, kwargs))


def _linear(value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A layer's bias, one for each of its outputs, does not change the shape."""
    return functional.linear(value, weight)


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


def _without_content(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
