"""Arrays on disk: what is mapped is what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.features.arrays import map_array, save_array

ARRAYS = {
    "many": np.arange(100_000, dtype=np.int32),
    "none": np.zeros(0, np.int64),
    "two axes": np.arange(6, dtype=np.float32).reshape(2, 3),
    "no axis": np.array(3.5),
    "columns first": np.asfortranarray(np.arange(6, dtype=np.uint32).reshape(2, 3)),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_an_array_is_mapped_as_numpy_loads_it(array: NDArray[Any], tmp_path: Path) -> None:
    """The same values, type and axes, and nobody can write to it; whoever wrote the file."""
    for write in (save_array, np.save):
        path = tmp_path / f"{write.__name__}.npy"
        write(path, array)
        mapped, loaded = map_array(path), np.load(path)
        assert mapped.dtype == loaded.dtype
        assert mapped.shape == loaded.shape
        assert np.array_equal(mapped, loaded)
        assert type(mapped) is np.ndarray
        assert not mapped.flags.writeable


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"no array", b"\x93NUMPY\x03\0\x10\0\0\0"], ids=repr
)
def test_a_file_of_another_form_is_refused(content: bytes, tmp_path: Path) -> None:
    """Empty, cut in its header, or of another kind."""
    path = tmp_path / "array.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"magic|header"):
        map_array(path)


@pytest.mark.parametrize("bytes_", [1, 200])
def test_an_array_that_is_cut_is_refused(bytes_: int, tmp_path: Path) -> None:
    """By a byte, or by all of its content."""
    path = tmp_path / "array.npy"
    save_array(path, np.arange(50, dtype=np.int32))
    path.write_bytes(path.read_bytes()[:-bytes_])
    with pytest.raises(ValueError, match="ends before its array"):
        map_array(path)


def test_objects_are_refused(tmp_path: Path) -> None:
    """They would be read by pickle, which runs code of the file."""
    path = tmp_path / "array.npy"
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="objects"):
        map_array(path)
