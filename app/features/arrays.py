"""Array types that the layers share, and how an array is written to disk."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int32]
"""Rows of the fused table, or the 32-bit words of encoded rows."""
Floats = NDArray[np.float32]
Column = Sequence[Any] | NDArray[Any]
"""The values of a field: as JSON has them, or an array [N] of numbers, of which none is missing."""
Packed = bytes | bytearray | memoryview
"""Encoded rows one after the other, 32 bits a word in the machine's byte order."""


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as a ``.npy`` file.

    Raises:
        OSError: it cannot be written; the reason is the system's. ``numpy.save`` has one of its own
            for a full disk ("20430 requested and 992 written").
    """
    # ascontiguousarray would give a scalar an axis.
    rows = np.asarray(array, order="C")
    header = np.lib.format.header_data_from_array_1_0(rows)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(rows.data)


def map_array(path: Path) -> NDArray[Any]:
    """Return the array of a ``.npy`` file of :func:`save_array`; its pages are read when looked at.

    ``numpy.load`` takes twice as long to map one, and makes every access to it several times
    slower.

    Raises:
        OSError, ValueError: the file cannot be read, or does not hold a whole array.
    """
    with path.open("rb") as file:
        if (version := np.lib.format.read_magic(file)) != (1, 0):
            raise ValueError(f"the header has version {version}, not (1, 0)")
        shape, columns_first, kind = np.lib.format.read_array_header_1_0(file)
        if kind.hasobject:
            raise ValueError("it holds objects")
        start = file.tell()
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if start + math.prod(shape) * kind.itemsize > len(content):
        raise ValueError("the file ends before its array does")
    return np.ndarray(shape, kind, content, start, order="F" if columns_first else "C")
