"""Matrix products in bfloat16, for training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MULTIPLE = 32
"""Terms of a sum that a tile of AMX takes at once.

Where a sum has another number of terms, oneDNN reads on into what lies beside the matrix and counts
on zeros in the other one: what is not finite there makes the sum NaN. It was mended after 3.14
(github.com/uxlfoundation/oneDNN/pull/5723); torch 2.13 has oneDNN 3.12.
"""


def brief_linear(value_RX: Tensor, weight_HX: Tensor, bias_H: Tensor | None = None) -> Tensor:
    """Return W x + c in bfloat16 [R, H]; the gradients are computed in bfloat16 too.

    On the CPU every sum, of the product and of the gradients, has a multiple of ``MULTIPLE`` terms:
    zeros are added to it.
    """
    bias_H = None if bias_H is None else bias_H.bfloat16()
    if value_RX.device.type != "cpu":
        return functional.linear(value_RX.bfloat16(), weight_HX.bfloat16(), bias_H)
    product_RH: Tensor = _Product.apply(value_RX, weight_HX, bias_H)  # type: ignore[no-untyped-call]
    return product_RH


class _Product(torch.autograd.Function):
    """W x + c of matrices that zeros fill up: it sums over X, and its gradients over H and R."""

    @staticmethod
    def forward(ctx: Any, value_RX: Tensor, weight_HX: Tensor, bias_H: Tensor | None) -> Tensor:
        rows, hidden = len(value_RX), len(weight_HX)
        value, weight = filled(value_RX), filled(weight_HX)
        ctx.save_for_backward(value, weight)
        ctx.given = value_RX.dtype, weight_HX.dtype, value_RX.shape[1]
        return functional.linear(value[:rows], weight[:hidden], bias_H)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_RH,) = gradients
        value, weight = ctx.saved_tensors
        value_type, weight_type, inputs = ctx.given
        rows, hidden = gradient_RH.shape
        gradient = filled(gradient_RH)
        for_value = for_bias = None
        if ctx.needs_input_grad[0]:
            for_value = (gradient[:rows] @ weight)[:, :inputs].to(value_type)
        for_weight = (gradient.T @ value)[:hidden, :inputs].to(weight_type)
        if ctx.needs_input_grad[2]:
            for_bias = gradient_RH.sum(0)
        return for_value, for_weight, for_bias


def filled(matrix: Tensor) -> Tensor:
    """Return a matrix in bfloat16, with zeros behind its rows and columns up to multiples."""
    rows, columns = (-size % MULTIPLE for size in matrix.shape)
    brief = matrix.bfloat16()
    return functional.pad(brief, (0, columns, 0, rows)) if rows or columns else brief
