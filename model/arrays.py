"""Arrays and what is said of them, on disk whole or not at all; damage is noticed.

A directory holds one ``.npy`` file for each array, others that its writer adds, and an index with
all their hashes and its own. It is written under another name, made durable and then renamed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundle import sync
from model.files import sha256

Arrays = dict[str, NDArray[Any]]
INDEX = "index.json"
PARTIAL = ".partial-"


class DamagedError(ValueError):
    """What is there is not what was written; the message names the file."""


def write_arrays(
    directory: Path,
    described: Mapping[str, Any],
    arrays: Mapping[str, Any],
    fill: Callable[[Path], object] | None = None,
) -> None:
    """Write arrays, by any names, and a description that JSON can hold; replace what is there.

    ``fill`` writes further files into the directory that it is given.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=directory.parent))
    try:
        files: dict[str, dict[str, str]] = {}
        for number, (name, array) in enumerate(arrays.items()):
            path = partial / f"{number}.npy"
            np.save(path, np.asarray(array), allow_pickle=False)
            files[name] = {"file": path.name, "sha256": sha256(path)}
            sync(path)
        if fill is not None:
            fill(partial)
        ours = {record["file"] for record in files.values()}
        others = {}
        for path in sorted(partial.rglob("*")):
            if path.is_file() and path.name not in ours:
                others[path.relative_to(partial).as_posix()] = sha256(path)
                sync(path)
        body = json.dumps({"described": described, "files": files, "others": others})
        digest = hashlib.sha256(body.encode()).hexdigest()
        (partial / INDEX).write_text(f"{digest}\n{body}\n", encoding="utf-8")
        sync(partial / INDEX)
        sync(partial)
        if directory.exists():
            shutil.rmtree(directory)
        partial.rename(directory)
        sync(directory.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def read_arrays(directory: Path) -> tuple[dict[str, Any], Arrays]:
    """Return the description and the arrays; all other files are verified too.

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
            arrays[name] = np.load(path, allow_pickle=False)
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedError(f"{directory.name} cannot be read: {error}") from error
    described: dict[str, Any] = index["described"]
    return described, arrays
