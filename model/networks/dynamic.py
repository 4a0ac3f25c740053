"""A candidate's fields in two: those whose values a service stores, and dynamic ones.

An exported graph looks both up apart, so that what it computes from stored values alone can be
computed before a request.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from app.features.layout import Layout

Group = tuple[Tensor, Sequence[Tensor], Tensor | None]
"""Single-valued slots [N, F], lists [N, L] and numbers [N, V] of some of the candidate's fields."""


class DynamicFields(nn.Module):
    """Cuts the candidate's inputs into those of stored and those of dynamic fields."""

    stored_columns: Tensor
    dynamic_columns: Tensor
    stored_values: Tensor
    dynamic_values: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        scaled = [slot.dynamic for slot in layout.candidate if slot.scaled]
        single = [slot.dynamic for slot in layout.candidate]
        for name, marks in (("columns", single), ("values", scaled)):
            for group, wanted in (("stored", False), ("dynamic", True)):
                places = [place for place, mark in enumerate(marks) if mark is wanted]
                # Not persistent: they are no weights.
                columns = torch.tensor(places, dtype=torch.int64)
                self.register_buffer(f"{group}_{name}", columns, persistent=False)
        self.lists = [slot.dynamic for slot in layout.candidate_lists]

    def forward(
        self, index_NF: Tensor, lists_NL: Sequence[Tensor], value_NV: Tensor | None
    ) -> tuple[Group, Group]:
        """Return the inputs of fields whose values are stored, and those of dynamic fields."""
        whole = index_NF, lists_NL, value_NV
        return (
            self._group(whole, False, self.stored_columns, self.stored_values),
            self._group(whole, True, self.dynamic_columns, self.dynamic_values),
        )

    def _group(self, whole: Group, wanted: bool, columns: Tensor, values: Tensor) -> Group:
        index_NF, lists_NL, value_NV = whole
        numbers = None if value_NV is None or not len(values) else value_NV.index_select(1, values)
        given = zip(lists_NL, self.lists, strict=True)
        chosen = [index_NL for index_NL, mark in given if mark is wanted]
        return index_NF.index_select(1, columns), chosen, numbers


def dynamic_last(layout: Layout) -> list[int]:
    """Return the numbers of the candidate's fields in the order in which the graph has them.

    Those with stored values come first. Fields are numbered as training has them: single-valued
    slots, and then lists.
    """
    marks = [slot.dynamic for slot in (*layout.candidate, *layout.candidate_lists)]
    return sorted(range(len(marks)), key=marks.__getitem__)
