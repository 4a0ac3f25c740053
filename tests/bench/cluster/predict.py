"""``predict`` of rows of the tests' small log: nine fields, one layer of 16."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tests.bench.cluster.running import Measured, watched
from tests.support.ray_cluster import Cluster
from tests.support.samples import ROWS, Sample, train_tiny

FILES = 8
DOING = "score_block"
"""The function that workers run for a block."""


class Made(NamedTuple):
    """A bundle, files to score with it, and a directory for the scores."""

    bundle: Path
    files: list[Path]
    scratch: Path


def made(scratch: Path, rows: int) -> Made:
    """Train a small bundle and write so many rows."""
    sample = Sample.make(scratch)
    bundle = train_tiny(sample, scratch / "bundles")
    log = pl.read_csv(sample.data, infer_schema=False)
    files = [scratch / f"{number}.csv" for number in range(FILES)]
    for number, path in enumerate(files):
        each = rows // FILES + (number < rows % FILES)
        pl.concat([log] * -(-each // ROWS))[:each].write_csv(path)
    return Made(bundle, files, scratch)


def measured(ray: Cluster, data: Made, workers: int | None) -> tuple[Measured, str]:
    """Run the command; return its figures and what tells all bits of the scores."""
    alone = workers is None
    out = data.scratch / ("scores.parquet" if alone else "scores")
    found = watched(ray, ["predict", data.bundle, *data.files, "--out", out], workers, DOING)
    scores = pl.read_parquet(out if alone else out / "part-*.parquet")
    if not alone:
        shutil.rmtree(out)
    return found, hashlib.sha256(scores.hash_rows().to_numpy().tobytes()).hexdigest()
