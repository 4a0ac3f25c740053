"""The rows of each part: to train on, to choose by and to measure on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data.errors import DataError
from model.data.split import PARTS, SHARES, split
from tests.support.disks import files_limited_to


def by_time(tmp_path: Path, moments: Sequence[int], piece: int = 3) -> list[int]:
    """The parts of rows at these moments, which come in pieces."""
    (tmp_path / "part").unlink(missing_ok=True)
    column = np.array(moments, np.int64)
    pieces = [column[start : start + piece] for start in range(0, len(column), piece)]
    return split(len(column), lambda: pieces, 1, tmp_path / "part").tolist()


def by_seed(tmp_path: Path, rows: int, seed: int) -> list[int]:
    """The parts of rows that are shuffled."""
    (tmp_path / "part").unlink(missing_ok=True)
    return split(rows, None, seed, tmp_path / "part").tolist()


def test_split_by_time(tmp_path: Path) -> None:
    """Parts follow each other in time; rows of one moment keep their order."""
    found = by_time(tmp_path, [50, 10, 40, 10, 30, 20, 60, 10, 70, 5])
    assert found == [0, 0, 0, 0, 0, 0, 1, 0, 2, 0]
    assert by_time(tmp_path, [0] * 10) == [0] * 8 + [1, 2]


MOMENTS = st.integers(-5, 5) | st.integers(-(2**40), 2**40)


@given(st.lists(MOMENTS, min_size=10, max_size=60), st.integers(1, 9))
def test_a_split_by_time_is_that_of_sorted_rows(
    tmp_path_factory: pytest.TempPathFactory, moments: list[int], piece: int
) -> None:
    """A stable sort of all rows, which large data leave no memory for, gives the same parts."""
    order = np.argsort(np.array(moments), kind="stable")
    stops = [round(len(moments) * sum(SHARES[: place + 1])) for place in range(len(PARTS))]
    expected = np.empty(len(moments), int)
    expected[order] = np.searchsorted(stops, np.arange(len(moments)), side="right")
    assert by_time(tmp_path_factory.mktemp("split"), moments, piece) == expected.tolist()


def test_split_by_seed(tmp_path: Path) -> None:
    """The same seed gives the same parts, another one others; the shares are exact."""
    one, two, other = (by_seed(tmp_path, 100, seed) for seed in (3, 3, 1))
    assert one == two != other
    for parts in (one, other):
        assert np.bincount(parts, minlength=len(PARTS)).tolist() == [80, 10, 10]


def test_a_shuffle_is_numpys_permutation(tmp_path: Path) -> None:
    """The parts of a seed are those of every version before; only one file is left."""
    order = np.random.default_rng(5).permutation(1_000)
    expected = np.empty(1_000, int)
    for place, (start, stop) in enumerate(((0, 800), (800, 900), (900, 1_000))):
        expected[order[start:stop]] = place
    assert by_seed(tmp_path, 1_000, 5) == expected.tolist()
    assert os.listdir(tmp_path) == ["part"]


def test_parts_that_are_there_are_taken(tmp_path: Path) -> None:
    """A run that goes on asks for no moment again; what a killed one has half-written is not it."""
    (tmp_path / "partial-part").write_bytes(b"\1" * 4)
    found = by_time(tmp_path, range(10))

    def refuse() -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
        raise AssertionError("moments were read again")

    assert split(10, refuse, 1, tmp_path / "part").tolist() == found


def test_empty_part_is_an_error(tmp_path: Path) -> None:
    """Too few rows for three parts are refused by the part that would be empty."""
    with pytest.raises(DataError, match="2 rows are too few: the validation part is empty"):
        by_seed(tmp_path, 2, 1)


@pytest.mark.parametrize("moments", [None, lambda: [np.arange(9_000)]], ids=["seed", "time"])
def test_no_room_is_an_error_of_its_own(tmp_path: Path, moments: None) -> None:
    """Not the signal that a mapped file on a full disk gives."""
    with files_limited_to(4_096), pytest.raises(OSError, match="File too large"):
        split(9_000, moments, 1, tmp_path / "part")
    assert not (tmp_path / "part").exists()
