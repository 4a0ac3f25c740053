"""The files of a run → good rows of raw values on disk, and the part of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from app.features.spec import DataPart, FeatureSpec
from app.files import write_file
from model.cluster.places import THIS_PROCESS, Places
from model.data.bad_lines import BadLines
from model.data.block_reading import (
    BlockRead,
    BlockToRead,
    merge_notes,
    read_block,
    write_stored,
)
from model.data.errors import DataError, no_usable_line
from model.data.file_blocks import BlockSize, FileContent, Looked, look
from model.data.frames_on_disk import FrameFile, FramesOnDisk
from model.data.log_files import Source, visible
from model.data.reader import MOMENT, Reader
from model.data.split import PARTS, SHARES, SplitMode, split
from model.data.stored_files import StoredFiles
from model.data.stored_values import StoredValues, read_stored
from model.data.wanted_columns import LogFile
from model.fingerprint import fingerprint_of
from model.progress import progress_bar

PART = "part"
"""File of a directory of rows: the place in ``PARTS`` of each row's part, a byte each."""
DEFAULT_SIZE = BlockSize()


@dataclass(frozen=True, slots=True)
class SplitRows:
    """Good rows as they were read, on disk in the order of the files, and the part of each."""

    on_disk: FramesOnDisk
    part: NDArray[np.uint8]
    """The place in ``PARTS`` of each row's part."""
    part_file: Path
    """The file that holds ``part``."""
    parts: Sequence[DataPart]
    """The parts that are wanted."""
    sources: Mapping[DataPart, Sequence[Source]]
    warnings: Sequence[str]

    def train(self, name: str) -> Iterator[pl.Series]:
        """Yield a column of the training part, in pieces."""
        return self.on_disk.column(name, self.part == PARTS.index("train"))


def _of_file(
    reader: Reader, file: LogFile, content: FileContent, results: Iterator[BlockRead]
) -> Iterator[tuple[str, int]]:
    """Yield the frames of a file's blocks, and add what was found to its reader's account."""
    bad, rows = BadLines(), 0
    for _ in content.parts:
        found = next(results)
        merge_notes(reader, found)
        bad.merge(found.bad)
        rows += found.rows
        yield from found.frames
    if bad.total and not rows:
        raise no_usable_line(file.name, bad)
    reader.note_file(file, Source(file.path.name, content.sha256, content.bytes, rows))


@dataclass(frozen=True, slots=True)
class InputFiles:
    """The files of a run: either ``data`` to be split, or one list for each part."""

    data: Sequence[Path] = ()
    parts: Mapping[DataPart, Sequence[Path]] | None = None
    mode: SplitMode = "auto"
    seed: int = 1
    max_bad_lines: float = 0.0
    wanted: Sequence[DataPart] = PARTS
    """The parts that are read; of ``data`` that are split, those that are kept."""
    stored: Sequence[StoredFiles] = ()
    """Values of items and users that the files lack."""

    def look(
        self, places: Places = THIS_PROCESS, size: BlockSize = DEFAULT_SIZE
    ) -> Mapping[Path, FileContent]:
        """Read every file once, for its hash and its blocks.

        Raises:
            DataError: a file cannot be read.
        """
        paths = list(dict.fromkeys(path for found in self._files().values() for path in found))
        try:
            return dict(zip(paths, places.map(look, (Looked(p, size) for p in paths)), strict=True))
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from error

    def read(
        self,
        spec: FeatureSpec,
        directory: Path,
        progress: bool = False,
        places: Places = THIS_PROCESS,
        size: BlockSize = DEFAULT_SIZE,
        contents: Mapping[Path, FileContent] | None = None,
    ) -> SplitRows:
        """Read the files into a directory and find each row's part.

        ``contents`` are what :meth:`look` has found, with blocks of this ``size``. What an earlier
        call has left in the directory, for the same files and the same spec, is not read again.

        Raises:
            DataError: the files cannot be used.
            OSError: the directory has no room for the rows.
        """
        timed = self.parts is None and self._timed(spec)
        stored = self._stored(spec)
        readers = {
            part: Reader(spec, paths, self.max_bad_lines, moment=timed, stored=stored)
            for part, paths in self._groups(spec).items()
        }
        for reader in readers.values():
            reader.require_columns(joins=True)
        if contents is None:
            contents = self.look(places, size)
        kept = write_stored(directory, stored)
        blocks = [
            BlockToRead(number, directory, spec, file, part, timed, kept)
            for number, (file, part) in enumerate(
                (file, part)
                for reader in readers.values()
                for file in reader.files
                for part in contents[file.path].parts
            )
        ]
        results = places.map(read_block, blocks)
        frames: list[FrameFile] = []
        own: list[NDArray[np.uint8]] = []
        total = sum(contents[f.path].bytes for reader in readers.values() for f in reader.files)
        with progress_bar("reading", total, "bytes", progress) as shown:
            for part, reader in readers.items():
                used = 0
                for file in reader.files:
                    for name, rows in _of_file(reader, file, contents[file.path], results):
                        frames.append(FrameFile(directory / name, rows))
                        used += rows
                    shown.update(contents[file.path].bytes)
                reader.require_rows(used)
                if part is not None:
                    own.append(np.full(used, PARTS.index(part), np.uint8))
        on_disk = FramesOnDisk(frames)
        sources: dict[DataPart, Sequence[Source]] = {}
        warnings: list[str] = []
        for part, reader in readers.items():
            sources |= dict.fromkeys(self.wanted if part is None else [part], reader.sources)
            warnings += [warning for warning in reader.warnings if warning not in warnings]
        if own:
            path = directory / PART
            write_file(path, np.concatenate(own).tobytes())
            found = np.asarray(np.memmap(path, np.uint8, mode="r"))
        else:
            moments = (lambda: map(pl.Series.to_numpy, on_disk.column(MOMENT))) if timed else None
            found = split(len(on_disk), moments, self.seed, directory / PART)
        return SplitRows(on_disk, found, directory / PART, self.wanted, sources, warnings)

    def _groups(self, spec: FeatureSpec) -> Mapping[DataPart | None, Sequence[Path]]:
        """Return the files whose lines are counted together; None is the part of a split."""
        if self.parts is None:
            if spec.negatives is not None and set(spec.negatives.parts) != set(PARTS):
                raise DataError(
                    "negatives: by the spec only some parts are thinned, and data that are split"
                    " are thinned alike in all parts; give files for each part"
                )
            return {None: self.data}
        if self.data or set(self.parts) != set(self.wanted):
            parts = ", ".join(self.wanted)
            raise DataError(f"give either data files, or files for each part: {parts}")
        return {part: self.parts[part] for part in self.wanted}

    def _timed(self, spec: FeatureSpec) -> bool:
        timed = self._mode(spec) == "time"
        if timed and spec.timestamp is None:
            raise DataError("the spec has no `timestamp` to split along")
        return timed

    def _files(self) -> Mapping[str, Sequence[Path]]:
        """Return all files by what they are for, without those that are passed over."""
        files: dict[str, Sequence[Path]] = {"data": self.data}
        files.update({str(part): paths for part, paths in (self.parts or {}).items()})
        files.update({f"{each.kind} by {each.key}": each.paths for each in self.stored})
        return {name: visible(paths) for name, paths in files.items()}

    def _stored(self, spec: FeatureSpec) -> Sequence[StoredValues]:
        return [read_stored(spec, each, self.max_bad_lines) for each in self.stored]

    def _mode(self, spec: FeatureSpec) -> SplitMode:
        if self.mode == "auto":
            return "time" if spec.timestamp is not None else "random"
        return self.mode

    def key(
        self,
        text: str,
        spec: FeatureSpec,
        *others: object,
        contents: Mapping[Path, FileContent] | None = None,
    ) -> str:
        """Return a hash of the files' names and content, the spec, the options and ``others``.

        Raises:
            DataError: a file cannot be read.
        """
        known = self.look() if contents is None else contents
        content = {
            name: [[path.name, known[path].sha256] for path in paths]
            for name, paths in self._files().items()
        }
        return fingerprint_of(
            text, content, self.describe(spec), list(self.wanted), self.max_bad_lines, *others
        )

    def describe(self, spec: FeatureSpec) -> dict[str, Any]:
        """Return the split's description for the manifest."""
        if self.parts is not None:
            return {"mode": "files"}
        return {"mode": self._mode(spec), "seed": self.seed, "shares": list(SHARES)}
