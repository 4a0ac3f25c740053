"""Small data whole in memory, which the trainer only ever sees in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from app.features.spec import DataPart, FeatureSpec
from app.features.vocabulary import Vocabulary
from model.cluster.places import THIS_PROCESS
from model.data.frames_on_disk import FrameFile, FramesOnDisk, write_frame
from model.data.input_files import InputFiles
from model.data.reader import Reader
from model.data.split import PARTS
from model.data.value_counts import count_rows
from model.data.vocabulary_learning import learn_vocabulary


def read(spec: FeatureSpec, paths: Sequence[Path], **options: Any) -> pl.DataFrame:
    """All good rows of some files."""
    return pl.concat(Reader(spec, paths, **options).frames(), how="vertical_relaxed")


def part_of(spec: FeatureSpec, inputs: InputFiles, part: DataPart) -> pl.DataFrame:
    """All rows of a part."""
    with TemporaryDirectory() as directory:
        split_rows = inputs.read(spec, Path(directory))
        frames = [frame for _, frame in split_rows.on_disk.frames()]
    return pl.concat(frames)[np.flatnonzero(split_rows.part == PARTS.index(part)).tolist()]


def learned(spec: FeatureSpec, frame: pl.DataFrame) -> Vocabulary:
    """The vocabulary learned from the rows of one frame."""
    return learned_of(spec, [frame])


def learned_of(spec: FeatureSpec, frames: Sequence[pl.DataFrame]) -> Vocabulary:
    """The vocabulary learned from rows that lie in several frames."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        files = []
        for number, frame in enumerate(frames):
            path = directory / f"{number}.parquet"
            write_frame(path, frame)
            files.append(FrameFile(path, frame.height))
        on_disk = FramesOnDisk(files)
        parts = directory / "part"
        parts.write_bytes(bytes(len(on_disk)))
        counts = count_rows(spec, on_disk, parts, directory, frozenset(), THIS_PROCESS)
        return learn_vocabulary(spec, counts)
