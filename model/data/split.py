"""The split of rows into the parts for training, for choosing weights, and for measuring."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.features.spec import DataPart
from app.files import put_in_place
from model.data.errors import DataError

SplitMode = Literal["auto", "time", "random"]
PARTS: tuple[DataPart, ...] = ("train", "validation", "test")
SHARES = (0.8, 0.1, 0.1)
Moments = Callable[[], Iterable[NDArray[np.int64]]]
"""Gives the seconds of all rows in their order, in pieces of any length and as often as asked."""
_BINS = 2**16
_AT_ONCE = 2**20


def split(rows: int, moments: Moments | None, seed: int, result: Path) -> NDArray[np.uint8]:
    """Return for each row [R] the place of its part in ``PARTS``; the file ``result`` keeps them.

    Rows are cut along ``moments`` (rows of one moment keep their order); without moments a seeded
    shuffle decides. However many rows there are, memory need not hold them: a shuffle takes four
    bytes a row of a file, which is read and written everywhere, a cut along time none.

    Raises:
        DataError: a part would be empty.
        OSError: there is no room for the file.
    """
    stops = [round(rows * sum(SHARES[: place + 1])) for place in range(len(PARTS))]
    for part, start, stop in zip(PARTS, [0, *stops], stops, strict=False):
        if start == stop:
            raise DataError(f"{rows} rows are too few: the {part} part is empty")
    if not result.exists():
        partial = result.with_name(f"partial-{result.name}")
        found = _mapped(partial, rows, np.uint8)
        if moments is None:
            _shuffled(found, stops, seed, result.with_name("order"))
        else:
            _along_time(found, stops[:-1], moments)
        found.flush()
        put_in_place(partial, result)
    return np.asarray(np.memmap(result, np.uint8, mode="r"))


def _mapped(path: Path, rows: int, dtype: Any) -> np.memmap[Any, Any]:
    """Make a file of numbers and map it; a disk without room is an error here, not at a write."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, rows * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype, mode="r+", shape=(rows,))


def _shuffled(found: NDArray[np.uint8], stops: list[int], seed: int, scratch: Path) -> None:
    """Set the parts as ``permutation`` of all rows gives them, which needs eight bytes a row."""
    rows = len(found)
    order = np.asarray(_mapped(scratch, rows, np.uint32 if rows < 2**32 else np.int64))
    try:
        for start in range(0, rows, _AT_ONCE):
            stop = min(start + _AT_ONCE, rows)
            order[start:stop] = np.arange(start, stop)
        np.random.default_rng(seed).shuffle(order)
        for place, (start, stop) in enumerate(zip([0, *stops], stops, strict=False)):
            for first in range(start, stop, _AT_ONCE):
                found[order[first : min(first + _AT_ONCE, stop)]] = place
    finally:
        scratch.unlink()


class _Cut(NamedTuple):
    """Beginning of a part: the row ``number`` (from 0) of those of a moment."""

    moment: int
    number: int


def _along_time(found: NDArray[np.uint8], ranks: list[int], moments: Moments) -> None:
    cuts = [_cut(rank, moments) for rank in ranks]
    seen = [0] * len(cuts)
    start = 0
    for piece in moments():
        place = np.zeros(len(piece), np.uint8)
        for which, cut in enumerate(cuts):
            alike = piece == cut.moment
            number = seen[which] + np.cumsum(alike) - 1
            place += (piece > cut.moment) | (alike & (number >= cut.number))
            seen[which] += int(alike.sum())
        found[start : start + len(piece)] = place
        start += len(piece)


def _cut(rank: int, moments: Moments) -> _Cut:
    """Find the row with so many before it in time, by counts of ever shorter spans of time."""
    low = min(int(piece.min()) for piece in moments())
    high = max(int(piece.max()) for piece in moments())
    before = 0
    while low < high:
        width = (high - low) // _BINS + 1
        counts = np.zeros(_BINS, np.int64)
        for piece in moments():
            inside = piece[(piece >= low) & (piece <= high)]
            counts += np.bincount((inside - low) // width, minlength=_BINS)
        reached = before + np.cumsum(counts)
        span = int(np.searchsorted(reached, rank, side="right"))
        before = int(reached[span] - counts[span])
        low += span * width
        high = min(high, low + width - 1)
    return _Cut(low, rank - before)
