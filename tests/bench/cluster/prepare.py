"""``prepare`` of rows of Criteo's shape."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from model.array_files import INDEX
from tests.bench.cluster.running import Measured, watched
from tests.bench.training.memory import FILES, SPEC
from tests.bench.training.memory import made as rows_of
from tests.support.ray_cluster import Cluster


class Made(NamedTuple):
    """Files to read, and a place for what is made of them."""

    files: list[Path]
    cache: Path


def made(scratch: Path, rows: int) -> Made:
    """Write so many rows."""
    files = [scratch / f"{number}.parquet" for number in range(FILES)]
    for number, path in enumerate(files):
        rows_of(rows // FILES + (number < rows % FILES), number).write_parquet(path)
    return Made(files, scratch / "cache")


def measured(ray: Cluster, data: Made, workers: int | None) -> tuple[Measured, bytes]:
    """Run the command; return its figures and what tells all bytes of its result."""
    words = ["prepare", SPEC, *data.files, "--cache", data.cache]
    found = watched(ray, words, workers, "")
    [entry] = data.cache.iterdir()
    # It has the hashes of all files, which the command has verified.
    index = (entry / INDEX).read_bytes()
    shutil.rmtree(data.cache)
    return found, index
