"""Values of contexts, repeated for the rows of each context."""

from __future__ import annotations

from torch import Tensor

RowContext = Tensor | None
"""The context [N] of each row; None if every row has its own, as in training."""


def of_rows(value_U: Tensor, row_context_N: RowContext) -> Tensor:
    """Return the value of each row's context: [U, ...] to [N, ...]."""
    return value_U if row_context_N is None else value_U.index_select(0, row_context_N)
