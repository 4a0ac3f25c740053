"""The split of rows into the parts for training, for choosing weights, and for measuring."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.features.spec import DataPart
from model.data.log_files import DataError

SplitMode = Literal["auto", "time", "random"]
PARTS: tuple[DataPart, ...] = ("train", "validation", "test")
SHARES = (0.8, 0.1, 0.1)


def split(rows: int, moments: NDArray[np.int64] | None, seed: int) -> NDArray[np.uint8]:
    """Return for each row [R] the place of its part in ``PARTS``.

    Rows are cut along ``moments`` [R], in seconds (rows of one moment keep their order); without
    moments a seeded shuffle decides.

    Raises:
        DataError: a part would be empty.
    """
    if moments is None:
        order = np.random.default_rng(seed).permutation(rows)
    else:
        order = np.argsort(moments, kind="stable")
    result = np.empty(rows, np.uint8)
    start = 0
    for place, part in enumerate(PARTS):
        stop = round(rows * sum(SHARES[: place + 1]))
        if start == stop:
            raise DataError(f"{rows} rows are too few: the {part} part is empty")
        result[order[start:stop]] = place
        start = stop
    return result
