"""Arrays and what is said of them, on disk whole or not at all; damage is noticed.

A directory holds one ``.npy`` file for each array and an index with their hashes and its own. It
is written under another name, made durable and then renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
INDEX = "index.json"
PARTIAL = ".partial-"


class DamagedError(ValueError):
    """What is there is not what was written; the message names the file."""


def write_arrays(directory: Path, described: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write arrays, by any names, and a description that JSON can hold; replace what is there."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=directory.parent))
    try:
        files: dict[str, dict[str, str]] = {}
        for number, (name, array) in enumerate(arrays.items()):
            path = partial / f"{number}.npy"
            np.save(path, np.asarray(array), allow_pickle=False)
            files[name] = {"file": path.name, "sha256": _sha256(path)}
            _sync(path)
        body = json.dumps({"described": described, "files": files})
        digest = hashlib.sha256(body.encode()).hexdigest()
        (partial / INDEX).write_text(f"{digest}\n{body}\n", encoding="utf-8")
        _sync(partial / INDEX)
        _sync(partial)
        if directory.exists():
            shutil.rmtree(directory)
        partial.rename(directory)
        _sync(directory.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def read_arrays(directory: Path) -> tuple[dict[str, Any], Arrays]:
    """Return the description and the arrays.

    Raises:
        DamagedError: a file is absent, cut off or altered.
    """
    try:
        digest, _, body = (directory / INDEX).read_text(encoding="utf-8").partition("\n")
        body = body.rstrip("\n")
        if hashlib.sha256(body.encode()).hexdigest() != digest:
            raise DamagedError(f"{directory.name}/{INDEX} was altered")
        index = json.loads(body)
        arrays = {}
        for name, record in index["files"].items():
            path = directory / record["file"]
            if _sha256(path) != record["sha256"]:
                raise DamagedError(f"{directory.name}/{path.name} was altered")
            arrays[name] = np.load(path, allow_pickle=False)
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedError(f"{directory.name} cannot be read: {error}") from error
    described: dict[str, Any] = index["described"]
    return described, arrays


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
