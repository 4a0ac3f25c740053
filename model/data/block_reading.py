"""Blocks of files → frames of good rows on disk, with what is told of each block's lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from app.features.keys import text_key
from app.features.spec import FeatureSpec
from app.files import write_file
from model.data.bad_lines import BadLines
from model.data.file_blocks import FilePart
from model.data.frames_on_disk import write_frame
from model.data.reader import Reader
from model.data.stored_files import StoredFiles
from model.data.stored_values import StoredValues
from model.data.wanted_columns import LogFile

StoredPlaces = Sequence[tuple[StoredFiles, Path]]
"""Files with values of items or users, and where their entries lie as one frame."""


@dataclass(frozen=True, slots=True)
class BlockToRead:
    """A block of a file, and what its rows become."""

    number: int
    directory: Path
    spec: FeatureSpec
    file: LogFile
    part: FilePart
    moment: bool
    stored: StoredPlaces


@dataclass(slots=True)
class BlockRead:
    """Findings of a block; its good rows lie in frames on disk."""

    frames: list[tuple[str, int]]
    """Names of the frames' files, and their rows."""
    rows: int
    """Lines that could be taken apart, good or not."""
    bad: BadLines
    notes: dict[str, Any]
    stored: list[tuple[int, int]]
    """For each of the stored files: rows that asked, and rows without an entry."""


_decode = msgspec.json.Decoder(BlockRead).decode
_encode = msgspec.json.Encoder().encode


def read_block(block: BlockToRead) -> BlockRead:
    """Read a block, unless that was done before.

    Raises:
        DataError: as :class:`Reader` does for its rows.
        OSError: there is no room for the rows.
    """
    done = block.directory / f"{block.number:06d}.json"
    if done.exists():
        return _decode(done.read_bytes())
    stored = [_stored(block.spec, files, path) for files, path in block.stored]
    reader = Reader(block.spec, [block.file.path], moment=block.moment, stored=stored)
    frames: list[tuple[str, int]] = []
    rows = 0
    for frame, piece in reader.part(block.file, block.part):
        rows += piece.frame.height
        if frame.height:
            name = f"{block.number:06d}-{len(frames):06d}.parquet"
            write_frame(block.directory / name, frame)
            frames.append((name, frame.height))
    found = BlockRead(
        frames,
        rows,
        reader.bad,
        reader.notes.state(),
        [(each.rows, each.unknown) for each in reader.stored],
    )
    write_file(done, _encode(found))
    return found


def write_stored(directory: Path, stored: Sequence[StoredValues]) -> StoredPlaces:
    """Write the entries of stored values where all blocks find them.

    Raises:
        OSError: there is no room for them.
    """
    found = []
    for number, each in enumerate(stored):
        path = directory / f"stored-{number}.parquet"
        write_frame(path, each.entries)
        found.append((each.files, path))
    return found


_known: dict[Path, pl.DataFrame] = {}
"""Entries that this process has read, of one run."""


def _stored(spec: FeatureSpec, files: StoredFiles, path: Path) -> StoredValues:
    if path not in _known:
        for other in [each for each in _known if each.parent != path.parent]:
            del _known[other]
        _known[path] = pl.read_parquet(path, glob=False)
    key = text_key(spec, files.key)
    return StoredValues(files, _known[path], [], key, BadLines())


def merge_notes(reader: Reader, found: BlockRead) -> None:
    """Add what was found in the next block to the account of all files."""
    reader.bad.merge(found.bad)
    reader.notes.merge(found.notes)
    for each, (rows, unknown) in zip(reader.stored, found.stored, strict=True):
        each.rows += rows
        each.unknown += unknown
