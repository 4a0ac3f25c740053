"""Frames of raw values on disk, which can be read any number of times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from app.files import write_file


class FrameFile(NamedTuple):
    """A frame's file, and its rows."""

    path: Path
    rows: int


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame, whole or not at all.

    Raises:
        OSError: there is no room for it.
    """
    # By way of memory: polars reports a full disk as a damaged file.
    content = BytesIO()
    frame.write_parquet(content, compression="lz4", statistics=False)
    write_file(path, content.getvalue())


class FramesOnDisk:
    """Frames in their order, in files that the caller removes."""

    def __init__(self, files: Sequence[FrameFile]) -> None:
        self.files = files
        self._ends = [0, *accumulate(rows for _, rows in files)]

    def __len__(self) -> int:
        """Rows of all frames."""
        return self._ends[-1]

    def places(self) -> Iterator[tuple[slice, Path]]:
        """Yield which rows of all each frame has, and its file."""
        for file, (start, stop) in zip(self.files, pairwise(self._ends), strict=True):
            yield slice(start, stop), file.path

    def frames(self) -> Iterator[tuple[slice, pl.DataFrame]]:
        """Yield each frame and which rows of all it has."""
        for where, path in self.places():
            yield where, pl.read_parquet(path, glob=False)

    def column(self, name: str, chosen: NDArray[np.bool_] | None = None) -> Iterator[pl.Series]:
        """Yield each frame's column, of the ``chosen`` rows [R] alone, by default of all."""
        for where, path in self.places():
            column = pl.read_parquet(path, columns=[name], glob=False)[name]
            yield column if chosen is None else column.filter(pl.Series(chosen[where]))
