"""A data set cuts the encoder's rows into the network's inputs, and joins them again."""

from __future__ import annotations

import numpy as np

from app.features.layout import RowShape
from model.data.dataset import Dataset

CONTEXT = RowShape(width=6, single=2, lists=((2, 5),), values=1)
CANDIDATE = RowShape(width=1, single=1, lists=(), values=0)


def rows(count: int) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Return a data set and the rows of both sides that it is made of."""
    random = np.random.default_rng(count)
    context = random.integers(1, 50, (count, CONTEXT.width)).astype(np.int32)
    context[:, -1] = random.normal(size=count).astype(np.float32).view(np.int32)
    candidate = random.integers(50, 60, (count, CANDIDATE.width)).astype(np.int32)
    label = random.integers(0, 2, count).astype(np.uint8)
    return Dataset.of_rows(context, candidate, (CONTEXT, CANDIDATE), label), context, candidate


def test_rows_are_cut_and_joined_again() -> None:
    """Singles, lists and numbers come back side by side, bit for bit."""
    data, context, candidate = rows(9)
    assert [part.shape for part in (data.context, *data.context_lists)] == [(9, 2), (9, 3)]
    assert data.context_value is not None
    assert data.context_value.dtype == np.float32
    assert data.candidate_value is None
    np.testing.assert_array_equal(data.context_rows, context)
    np.testing.assert_array_equal(data.candidate_rows, candidate)


def test_rows_may_be_taken_in_any_order() -> None:
    """Every column and the label follow, whether by numbers or by a slice."""
    data, context, candidate = rows(9)
    chosen = np.array([5, 0, 5])
    taken = data.take(chosen)
    np.testing.assert_array_equal(taken.context_rows, context[chosen])
    np.testing.assert_array_equal(taken.candidate_rows, candidate[chosen])
    np.testing.assert_array_equal(taken.label, data.label[chosen])
    assert len(data.take(slice(2, 4))) == 2


def test_each_row_is_its_own_context_for_the_network() -> None:
    """The inputs are copies: training may change them without changing the data."""
    data, context, _ = rows(4)
    inputs = data.inputs()
    assert inputs.row_context is None
    assert inputs.candidate_value is None
    inputs.context.zero_()
    np.testing.assert_array_equal(data.context_rows, context)


def test_the_share_of_negatives_follows() -> None:
    """Rows taken of a thinned part are thinned alike."""
    data, _, _ = rows(4)
    thinned = Dataset(data.context, data.candidate, (), (), data.label, kept=0.25)
    assert thinned.take(slice(1, 2)).kept == 0.25
