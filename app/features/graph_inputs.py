"""The exported graph's signature: its inputs, their axes, and the arrays that they take.

The trainer exports a graph with these inputs, and the engine checks a loaded graph against them
and cuts a batch into them. Axes: U contexts, N candidate rows, L places of a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.features.arrays import Floats, Indices
from app.features.layout import Layout, RowShape
from app.features.spec import Side

CONTEXTS, ROWS = "contexts", "rows"
"""Names of the axes U and N."""
FIRST_CUT = "first_cut"
"""Name of a vector of each side, whose inner product orders items before the whole network does.

``candidate.onnx`` gives it for items, ``combine.onnx`` for contexts.
"""


class Batch(NamedTuple):
    """Encoded rows for one run: U contexts [U, Wc], N candidates [N, Wi], the context of each [N].

    A row holds the single-valued slots, then the padded places of the list slots, then the
    scaled slots' numbers, the bits of each float32 as an int32. ``slots`` [N] are the places of
    the candidates' item parts, below zero where there is none; None if no row has any.
    ``of_page`` says that somebody tries rows of it on a page of the service.
    """

    context: Indices
    candidate: Indices
    row_context: Indices
    slots: Indices | None = None
    of_page: bool = False


class Scores(NamedTuple):
    """The graph's outputs: one logit and one score for each candidate row, in their order."""

    logit: Floats
    score: Floats

    def best(self, most: int | None) -> NDArray[np.intp]:
        """Return the rows by falling logit, ``most`` of them; equal ones keep their order."""
        return np.argsort(-self.logit, kind="stable")[:most]


class GraphInput(NamedTuple):
    """One input of the graph. An axis is a name where its size varies, else its size."""

    name: str
    axes: tuple[str | int, ...]
    dtype: Literal["int32", "float32"] = "int32"


def graph_inputs(layout: Layout) -> Sequence[GraphInput]:
    """Return the inputs in the order in which the graph has them."""
    sides: tuple[tuple[Side, str], ...] = ("context", CONTEXTS), ("candidate", ROWS)
    single = {"context": layout.context, "candidate": layout.candidate}
    lists = {"context": layout.context_lists, "candidate": layout.candidate_lists}
    scaled = {"context": layout.context_values, "candidate": layout.candidate_values}
    return (
        *(GraphInput(side, (axis, len(single[side]))) for side, axis in sides),
        GraphInput("row_context", (ROWS,)),
        *(
            GraphInput(_list_input(side, number), (axis, f"{side}_places_{number}"))
            for side, axis in sides
            for number in range(len(lists[side]))
        ),
        *(
            GraphInput(_value_input(side), (axis, scaled[side]), "float32")
            for side, axis in sides
            if scaled[side]
        ),
    )


def feed(batch: Batch, context: RowShape, candidate: RowShape) -> dict[str, Indices | Floats]:
    """Return the arrays that the graph takes, by input; a list is as long as its longest row."""
    arrays: dict[str, Indices | Floats] = {"row_context": batch.row_context}
    cut(arrays, "context", batch.context, context)
    cut(arrays, "candidate", batch.candidate, candidate)
    return arrays


def words_of(side: Side, shape: RowShape) -> Sequence[tuple[str, int, int]]:
    """Return which words of a side's row each input takes: its name, the first, the one behind."""
    return (
        (side, 0, shape.single),
        *((_list_input(side, number), *place) for number, place in enumerate(shape.lists)),
        *([(_value_input(side), shape.indices, shape.width)] if shape.values else []),
    )


def part_name(number: int) -> str:
    """Return the name of an array of the item part: an output of ``candidate.onnx``."""
    return f"item_part_{number}"


def _list_input(side: Side, number: int) -> str:
    return f"{side}_list_{number}"


def _value_input(side: Side) -> str:
    return f"{side}_value"


def cut(arrays: dict[str, Indices | Floats], side: Side, rows: Indices, shape: RowShape) -> None:
    """Cut the rows of one side into the graph's inputs, which are added to ``arrays``."""
    if shape.width == shape.single:
        # The hot path: no lists and no numbers, so nothing is copied.
        arrays[side] = rows
        return
    arrays[side] = np.ascontiguousarray(rows[:, : shape.single])
    if shape.values:
        values = np.ascontiguousarray(rows[:, shape.indices :])
        arrays[_value_input(side)] = values.view(np.float32)
    for number, (start, stop) in enumerate(shape.lists):
        places = rows[:, start:stop]
        used = np.flatnonzero(places.any(axis=0))
        longest = int(used[-1]) + 1 if len(used) else 0
        arrays[_list_input(side, number)] = np.ascontiguousarray(places[:, :longest])
