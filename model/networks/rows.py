"""How what a context has once reaches its rows."""

from __future__ import annotations

from torch import Tensor

RowContext = Tensor | None
"""The context [N] of each row; None where every row has one of its own, as in training."""


def of_rows(value_U: Tensor, row_context_N: RowContext) -> Tensor:
    """Return for each row what its context has: [U, ...] to [N, ...]."""
    return value_U if row_context_N is None else value_U.index_select(0, row_context_N)
