"""Frames of raw values on disk, which can be read any number of times."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray


class FramesOnDisk:
    """Frames that were added, in their order, in a directory that the caller removes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ends = [0]

    def __len__(self) -> int:
        """Rows of all frames."""
        return self._ends[-1]

    def add(self, frame: pl.DataFrame) -> None:
        """Put a frame behind the others.

        Raises:
            OSError: there is no room for it.
        """
        # By way of memory: polars reports a full disk as a damaged file.
        content = BytesIO()
        frame.write_parquet(content, compression="lz4", statistics=False)
        self._path(len(self._ends) - 1).write_bytes(content.getbuffer())
        self._ends.append(len(self) + frame.height)

    def frames(self) -> Iterator[tuple[slice, pl.DataFrame]]:
        """Yield each frame and which rows of all it has."""
        for number, (start, stop) in enumerate(pairwise(self._ends)):
            yield slice(start, stop), pl.read_parquet(self._path(number), glob=False)

    def column(self, name: str, chosen: NDArray[np.bool_]) -> Iterator[pl.Series]:
        """Yield each frame's column, of the ``chosen`` rows [R] alone."""
        for number, (start, stop) in enumerate(pairwise(self._ends)):
            frame = pl.read_parquet(self._path(number), columns=[name], glob=False)
            yield frame[name].filter(pl.Series(chosen[start:stop]))

    def _path(self, number: int) -> Path:
        return self._directory / f"{number}.parquet"
