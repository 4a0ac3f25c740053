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
from app.files import sha256
from model.data.frames_on_disk import FramesOnDisk
from model.data.log_files import DataError, Source, visible
from model.data.reader import MOMENT, Reader
from model.data.split import PARTS, SHARES, SplitMode, split
from model.data.stored_files import StoredFiles
from model.data.stored_values import StoredValues, read_stored
from model.fingerprint import fingerprint_of


@dataclass(frozen=True, slots=True)
class SplitRows:
    """Good rows as they were read, on disk in the order of the files, and the part of each."""

    on_disk: FramesOnDisk
    part: NDArray[np.uint8]
    """The place in ``PARTS`` of each row's part."""
    parts: Sequence[DataPart]
    """The parts that are wanted."""
    sources: Mapping[DataPart, Sequence[Source]]
    warnings: Sequence[str]

    def train(self, name: str) -> Iterator[pl.Series]:
        """Yield a column of the training part, in pieces."""
        return self.on_disk.column(name, self.part == PARTS.index("train"))


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

    def read(self, spec: FeatureSpec, directory: Path, progress: bool = False) -> SplitRows:
        """Read the files into a directory and find each row's part.

        Raises:
            DataError: the files cannot be used.
        """
        if self.parts is not None:
            return self._read_parts(spec, directory, self.parts, progress)
        if spec.negatives is not None and set(spec.negatives.parts) != set(PARTS):
            raise DataError(
                "negatives: by the spec only some parts are thinned, and data that are split are"
                " thinned alike in all parts; give files for each part"
            )
        timed = self._mode(spec) == "time"
        if timed and spec.timestamp is None:
            raise DataError("the spec has no `timestamp` to split along")
        stored = self._stored(spec)
        reader = Reader(
            spec, self.data, self.max_bad_lines, moment=timed, progress=progress, stored=stored
        )
        on_disk = FramesOnDisk(directory)
        moments = []
        for frame in reader.frames():
            on_disk.add(frame)
            if timed:
                moments.append(frame[MOMENT].to_numpy())
        part = split(len(on_disk), np.concatenate(moments) if timed else None, self.seed)
        return SplitRows(
            on_disk,
            part,
            self.wanted,
            dict.fromkeys(self.wanted, reader.sources),
            reader.warnings,
        )

    def _read_parts(
        self,
        spec: FeatureSpec,
        directory: Path,
        files: Mapping[DataPart, Sequence[Path]],
        progress: bool,
    ) -> SplitRows:
        if self.data or set(files) != set(self.wanted):
            parts = ", ".join(self.wanted)
            raise DataError(f"give either data files, or files for each part: {parts}")
        on_disk = FramesOnDisk(directory)
        part: list[NDArray[np.uint8]] = []
        sources: dict[DataPart, Sequence[Source]] = {}
        warnings: list[str] = []
        stored = self._stored(spec)
        readers = {
            name: Reader(spec, files[name], self.max_bad_lines, progress=progress, stored=stored)
            for name in self.wanted
        }
        for reader in readers.values():
            reader.require_columns()
        for name, reader in readers.items():
            for frame in reader.frames():
                on_disk.add(frame)
                part.append(np.full(frame.height, PARTS.index(name), np.uint8))
            sources[name] = reader.sources
            warnings += [warning for warning in reader.warnings if warning not in warnings]
        return SplitRows(on_disk, np.concatenate(part), self.wanted, sources, warnings)

    def _stored(self, spec: FeatureSpec) -> Sequence[StoredValues]:
        return [read_stored(spec, each, self.max_bad_lines) for each in self.stored]

    def _mode(self, spec: FeatureSpec) -> SplitMode:
        if self.mode == "auto":
            return "time" if spec.timestamp is not None else "random"
        return self.mode

    def key(self, text: str, spec: FeatureSpec, *others: object) -> str:
        """Return a hash of the files' names and content, the spec, the options and ``others``.

        Raises:
            DataError: a file cannot be read.
        """
        files: dict[str, Sequence[Path]] = {"data": self.data}
        files.update({str(part): paths for part, paths in (self.parts or {}).items()})
        files.update({f"{each.kind} by {each.key}": each.paths for each in self.stored})
        try:
            content = {
                name: [[path.name, sha256(path)] for path in visible(paths)]
                for name, paths in files.items()
            }
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
        return fingerprint_of(
            text, content, self.describe(spec), list(self.wanted), self.max_bad_lines, *others
        )

    def describe(self, spec: FeatureSpec) -> dict[str, Any]:
        """Return the split's description for the manifest."""
        if self.parts is not None:
            return {"mode": "files"}
        return {"mode": self._mode(spec), "seed": self.seed, "shares": list(SHARES)}
