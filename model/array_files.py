"""Named arrays and their description on disk, whole or not at all; damage is noticed.

A directory holds one ``.npy`` file for each array, further files that its writer adds, and an
index with the hashes of all of them and its own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import CtrError
from app.features.arrays import save_array
from app.files import partial_directory, put_in_place, sha256

Arrays = dict[str, NDArray[Any]]
INDEX = "index.json"


class DamagedError(CtrError):
    """A file is not what was written; the message names it."""


class ArrayWriter:
    """Takes arrays by any names, whole or growing row by row.

    Further files may be put into ``directory``. ``description`` is anything that JSON can hold.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.description: Mapping[str, Any] = {}
        self._files: dict[str, Path] = {}
        self._growing: dict[str, _GrowingArray] = {}

    def save(self, name: str, array: Any) -> None:
        """Write a whole array."""
        save_array(self._new(name), np.asarray(array))

    def append(self, name: str, rows: NDArray[Any]) -> None:
        """Write the next rows of an array; only these are held in memory."""
        if name not in self._growing:
            self._growing[name] = _GrowingArray(self._new(name), rows)
        self._growing[name].append(rows)

    def close(self) -> None:
        """Complete the growing arrays."""
        for array in self._growing.values():
            array.close()

    def write_index(self) -> None:
        """Complete the growing arrays and write the index of all files."""
        self.close()
        files = {name: {"file": p.name, "sha256": sha256(p)} for name, p in self._files.items()}
        arrays = {record["file"] for record in files.values()}
        others = {
            path.relative_to(self.directory).as_posix(): sha256(path)
            for path in sorted(self.directory.rglob("*"))
            if path.is_file() and path.name not in arrays
        }
        body = json.dumps({"described": self.description, "files": files, "others": others})
        digest = hashlib.sha256(body.encode()).hexdigest()
        (self.directory / INDEX).write_text(f"{digest}\n{body}\n", encoding="utf-8")

    def _new(self, name: str) -> Path:
        path = self.directory / f"{len(self._files)}.npy"
        self._files[name] = path
        return path


class _GrowingArray:
    """An array on disk that gets longer; closing it corrects the header."""

    def __init__(self, path: Path, like: NDArray[Any]) -> None:
        self._file = path.open("wb")
        self._like, self._rows = like[:0], 0
        self._write_header()

    def append(self, rows: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(rows).data)
        self._rows += len(rows)

    def close(self) -> None:
        if not self._file.closed:
            self._file.seek(0)
            self._write_header()
            self._file.close()

    def _write_header(self) -> None:
        # NumPy pads the header so that any number of rows fits into it.
        header = np.lib.format.header_data_from_array_1_0(self._like)
        header["shape"] = (self._rows, *self._like.shape[1:])
        np.lib.format.write_array_header_1_0(self._file, header)


@contextmanager
def write_arrays(directory: Path) -> Iterator[ArrayWriter]:
    """Yield a writer of arrays; on leaving, they become ``directory``, whole or not at all.

    A directory of that name is replaced.
    """
    with partial_directory(directory.parent) as partial:
        writer = ArrayWriter(partial)
        try:
            yield writer
            writer.write_index()
        finally:
            writer.close()
        if directory.exists():
            shutil.rmtree(directory)
        put_in_place(partial, directory)


def read_arrays(directory: Path, mapped: bool = False) -> tuple[dict[str, Any], Arrays]:
    """Return the description and the arrays, every file verified.

    ``mapped`` leaves the arrays on disk, to be paged in as they are read; the files may be removed
    in the meantime.

    Raises:
        DamagedError: a file is absent, cut off or altered.
    """
    try:
        digest, _, body = (directory / INDEX).read_text(encoding="utf-8").partition("\n")
        body = body.rstrip("\n")
        if hashlib.sha256(body.encode()).hexdigest() != digest:
            raise DamagedError(f"{directory.name}/{INDEX} was altered")
        index = json.loads(body)
        for name, digest in index["others"].items():
            if sha256(directory / name) != digest:
                raise DamagedError(f"{directory.name}/{name} was altered")
        arrays = {}
        for name, record in index["files"].items():
            path = directory / record["file"]
            if sha256(path) != record["sha256"]:
                raise DamagedError(f"{directory.name}/{path.name} was altered")
            # A plain view: numpy's memmap class makes every access slower.
            arrays[name] = np.asarray(
                np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
            )
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedError(f"{directory.name} cannot be read: {error}") from error
    described: dict[str, Any] = index["described"]
    return described, arrays
