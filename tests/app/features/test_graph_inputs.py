"""The graph's inputs follow from the layout, and a batch is cut into exactly those."""

from __future__ import annotations

import numpy as np

from app.features.arrays import Indices
from app.features.graph_inputs import Batch, GraphInput, feed, graph_inputs
from app.features.layout import Layout, RowShape, Slot

FLAT = Layout(
    context=(Slot("user", "user", 1, 4),),
    candidate=(Slot("item", "item", 5, 4), Slot("shop", "shop", 9, 4)),
    context_lists=(),
    candidate_lists=(),
)
FULL = Layout(
    context=(Slot("user", "user", 1, 4), Slot("age", "age", 5, 3, scaled=True)),
    candidate=(Slot("item", "item", 8, 4), Slot("price", "price", 12, 3, scaled=True)),
    context_lists=(Slot("seen", "seen", 15, 4),),
    candidate_lists=(Slot("tags", "tags", 19, 4), Slot("words", "words", 23, 4)),
)
CONTEXT = RowShape(5, 2, ((2, 4),), 1)
"""User and age, two places of ``seen``, the age."""
CANDIDATE = RowShape(8, 2, ((2, 4), (4, 7)), 1)
"""Item and price, two places of ``tags``, three of ``words``, the price."""


def words(*numbers: float) -> list[int]:
    """The bits of float32 numbers."""
    return np.array(numbers, np.float32).view(np.int32).tolist()


def rows(*lines: list[int]) -> Indices:
    return np.array(lines, np.int32)


def full_batch() -> Batch:
    """One context and two candidates, with lists of different lengths."""
    return Batch(
        rows([2, 6, 17, 0, *words(0.5)]),
        rows(
            [9, 13, 21, 0, 25, 26, 0, *words(-1.5)],
            [10, 13, 0, 0, 24, 0, 0, *words(2.0)],
        ),
        np.zeros(2, np.int32),
    )


def test_inputs_of_single_valued_slots() -> None:
    """A spec without lists and scaled numbers has three inputs, whose rows vary in number."""
    assert list(graph_inputs(FLAT)) == [
        GraphInput("context", ("contexts", 1)),
        GraphInput("candidate", ("rows", 2)),
        GraphInput("row_context", ("rows",)),
    ]


def test_lists_and_scaled_numbers_have_inputs_of_their_own() -> None:
    """Each list has an input of varying length; the scaled numbers of a side share one."""
    assert list(graph_inputs(FULL)) == [
        GraphInput("context", ("contexts", 2)),
        GraphInput("candidate", ("rows", 2)),
        GraphInput("row_context", ("rows",)),
        GraphInput("context_list_0", ("contexts", "context_places_0")),
        GraphInput("candidate_list_0", ("rows", "candidate_places_0")),
        GraphInput("candidate_list_1", ("rows", "candidate_places_1")),
        GraphInput("context_value", ("contexts", 1), "float32"),
        GraphInput("candidate_value", ("rows", 1), "float32"),
    ]


def test_a_batch_is_cut_into_the_inputs_of_its_layout() -> None:
    """The arrays have the names, types and number of axes that the graph's inputs have."""
    arrays = feed(full_batch(), CONTEXT, CANDIDATE)
    inputs = {each.name: each for each in graph_inputs(FULL)}
    assert arrays.keys() == inputs.keys()
    for name, array in arrays.items():
        assert array.dtype == inputs[name].dtype
        assert array.ndim == len(inputs[name].axes)
        assert array.flags["C_CONTIGUOUS"]


def test_every_word_of_a_row_reaches_its_input() -> None:
    """Single-valued slots, lists and numbers come out as they were laid into the row."""
    arrays = feed(full_batch(), CONTEXT, CANDIDATE)
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "context": [[2, 6]],
        "candidate": [[9, 13], [10, 13]],
        "row_context": [0, 0],
        "context_list_0": [[17]],
        "candidate_list_0": [[21], [0]],
        "candidate_list_1": [[25, 26], [24, 0]],
        "context_value": [[0.5]],
        "candidate_value": [[-1.5], [2.0]],
    }


def test_a_list_is_as_long_as_its_longest_row() -> None:
    """Places that no row of the batch uses are cut off: all of them where every list is empty."""
    batch = full_batch()
    batch.candidate[:, 2:7] = 0
    arrays = feed(batch, CONTEXT, CANDIDATE)
    assert arrays["candidate_list_0"].shape == (2, 0)
    assert arrays["candidate_list_1"].shape == (2, 0)


def test_rows_without_lists_and_numbers_are_not_copied() -> None:
    """The hot path hands the batch's own arrays to the engine."""
    batch = Batch(rows([1]), rows([5, 9], [6, 9]), np.zeros(2, np.int32))
    arrays = feed(batch, RowShape(1, 1, ()), RowShape(2, 2, ()))
    assert arrays["context"] is batch.context
    assert arrays["candidate"] is batch.candidate
