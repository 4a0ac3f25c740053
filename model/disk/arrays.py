"""Arrays and what is said of them, on disk whole or not at all; damage is noticed.

A directory holds one ``.npy`` file for each array, others that its writer adds, and an index with
all their hashes and its own. It is written under another name, made durable and then renamed.
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

from app.bundle.bundle import sync
from model.disk.scratch import scratch
from model.files import sha256

Arrays = dict[str, NDArray[Any]]
INDEX = "index.json"


class DamagedError(ValueError):
    """What is there is not what was written; the message names the file."""


class Writing:
    """What :func:`written` gives: takes arrays by any names, whole or growing row by row.

    Further files may be put into ``directory``. ``described`` is anything that JSON can hold.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.described: Mapping[str, Any] = {}
        self._files: dict[str, Path] = {}
        self._growing: dict[str, _Growing] = {}

    def save(self, name: str, array: Any) -> None:
        """Write a whole array."""
        np.save(self._new(name), np.asarray(array), allow_pickle=False)

    def append(self, name: str, rows: NDArray[Any]) -> None:
        """Write the next rows of an array; no more of it is held in memory."""
        if name not in self._growing:
            self._growing[name] = _Growing(self._new(name), rows)
        self._growing[name].append(rows)

    def close(self) -> None:
        """End the growing arrays."""
        for array in self._growing.values():
            array.close()

    def finish(self) -> None:
        """Make all durable, and then write the index."""
        self.close()
        files = {name: {"file": p.name, "sha256": sha256(p)} for name, p in self._files.items()}
        ours = {record["file"] for record in files.values()}
        others = {}
        for path in sorted(self.directory.rglob("*")):
            if path.is_file():
                if path.name not in ours:
                    others[path.relative_to(self.directory).as_posix()] = sha256(path)
                sync(path)
        body = json.dumps({"described": self.described, "files": files, "others": others})
        digest = hashlib.sha256(body.encode()).hexdigest()
        (self.directory / INDEX).write_text(f"{digest}\n{body}\n", encoding="utf-8")
        sync(self.directory / INDEX)
        sync(self.directory)

    def _new(self, name: str) -> Path:
        path = self.directory / f"{len(self._files)}.npy"
        self._files[name] = path
        return path


class _Growing:
    """An array on disk that gets longer; its header is put right at the end."""

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
        # NumPy leaves room in it for any number of rows.
        header = np.lib.format.header_data_from_array_1_0(self._like)
        header["shape"] = (self._rows, *self._like.shape[1:])
        np.lib.format.write_array_header_1_0(self._file, header)


@contextmanager
def written(directory: Path) -> Iterator[Writing]:
    """Give a place to write arrays to; on leaving it becomes ``directory``, whole or not at all.

    What is there already is replaced.
    """
    with scratch(directory.parent) as partial:
        writing = Writing(partial)
        try:
            yield writing
            writing.finish()
        finally:
            writing.close()
        if directory.exists():
            shutil.rmtree(directory)
        partial.rename(directory)
        sync(directory.parent)


def read_arrays(directory: Path, mapped: bool = False) -> tuple[dict[str, Any], Arrays]:
    """Return the description and the arrays; all other files are verified too.

    ``mapped`` leaves the arrays on disk, to be paged in as they are looked at; the files may be
    removed meanwhile.

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
