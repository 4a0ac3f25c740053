"""The rows of each part: to train on, to choose by and to measure on."""

from __future__ import annotations

import numpy as np
import pytest

from model.data.log_files import DataError
from model.data.split import PARTS, split


def test_split_by_time() -> None:
    """Parts follow each other in time; rows of one moment keep their order."""
    moments = np.array([50, 10, 40, 10, 30, 20, 60, 10, 70, 5])
    assert split(10, moments, seed=1).tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 2, 0]
    assert split(10, np.zeros(10, np.int64), seed=1).tolist() == [0] * 8 + [1, 2]


def test_split_by_seed() -> None:
    """The same seed gives the same parts, another one others; the shares are exact."""
    one, two, other = split(100, None, 3), split(100, None, 3), split(100, None, 1)
    assert one.tolist() == two.tolist() != other.tolist()
    for parts in (one, other):
        assert np.bincount(parts, minlength=len(PARTS)).tolist() == [80, 10, 10]


def test_empty_part_is_an_error() -> None:
    """Too few rows for three parts are refused by the part that would be empty."""
    with pytest.raises(DataError, match="2 rows are too few: the validation part is empty"):
        split(2, None, 1)
