"""The benchmark's vocabulary is one that the product could have written."""

from __future__ import annotations

import os

import numpy as np
import pytest

from app.features import vocabulary
from app.features.vocabulary import Texts
from tests.bench.vocabulary import Draws, memory, texts, value


def test_made_up_values_are_packed_as_the_product_packs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keys, rows and index are those of the same values given one by one."""
    monkeypatch.setattr(vocabulary, "INDEXED_VALUES", 1)
    made = texts(3_000, 5)
    ranks = {value(rank): rank for rank in range(3_000)}
    keys = sorted(ranks)
    expected = Texts.of(keys, np.array([5 + ranks[key] for key in keys], np.int32))
    for name in ("blob", "offsets", "rows"):
        np.testing.assert_array_equal(getattr(made, name), getattr(expected, name), strict=True)
    assert made.index is not None
    assert expected.index is not None
    np.testing.assert_array_equal(made.index.starts, expected.index.starts)
    np.testing.assert_array_equal(made.index.places, expected.index.places)
    assert made.finder()(value(7)) == 12


def test_cold_values_are_rare_ones_and_hot_ones_frequent() -> None:
    """The two callers ask for values that memory holds, and for values that it does not."""
    draws = Draws(1_000_000)
    assert draws.hot(1_000).max() < 1_000
    assert draws.cold(1_000).min() >= 500_000
    assert np.median(draws.zipf(10_000)) < 10_000


def test_private_memory_is_what_no_file_holds() -> None:
    """Memory that is written to counts; what is mapped counts apart."""
    private, mapped = memory(os.getpid())
    block = np.ones(2**23)
    more, _ = memory(os.getpid())
    assert more - private == pytest.approx(block.nbytes / 2**20, abs=8)
    assert mapped > 1
