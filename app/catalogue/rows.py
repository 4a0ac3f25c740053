"""Rows in one array that grows: its room doubles."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.features.arrays import Indices

Number = TypeVar("Number", np.int32, np.int64, np.float64)
FIRST_ROWS = 1_024
"""Rows that there is room for at first."""


class GrowingRows(Generic[Number]):
    """``array`` [rows, width] has room for every row that was put, and more; new rows are zero."""

    def __init__(self, width: int, dtype: type[Number]) -> None:
        self.width = width
        self.array: NDArray[Number] = np.zeros((FIRST_ROWS, width), dtype)

    def put(self, place: int, row: Any) -> None:
        """Set a row, making room for it."""
        if place >= len(self.array):
            self._make_room(place)
        self.array[place] = row

    def put_all(self, places: Indices, rows: Any) -> None:
        """Set rows [N, width], making room for them; of those with one place the last counts."""
        if len(places):
            if (last := int(places.max())) >= len(self.array):
                self._make_room(last)
            self.array[places] = np.array(rows, self.array.dtype).reshape(-1, self.width)

    def _make_room(self, place: int) -> None:
        while place >= len(self.array):
            self.array = np.concatenate([self.array, np.zeros_like(self.array)])
