"""Scores and figures of a bundle over files, through the engine that serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from app.bundle.bundle import Bundle
from app.bundle.directory import newest
from app.features.encoder import Encoder
from app.features.graph_inputs import Scores
from app.features.spec import DataPart
from app.scoring.engine import Engine
from model.data.encode import encode
from model.data.errors import DataError
from model.data.input_files import InputFiles
from model.data.reader import Reader
from model.data.split import PARTS
from model.data.stored_files import StoredFiles
from model.data.stored_values import read_stored
from model.data.wanted_columns import FILE, KEPT, LINE
from model.progress import warn
from model.quality.calibration import Calibration, calibrated
from model.quality.figures import Quality, evaluate_scores
from model.quality.offline_scoring import open_engine, score_dataset
from model.result_places import ResultError, require_file
from model.score_table import require_table_name, score_table

RESULT_COLUMNS = ("file", "line", "logit", "score", "version")
"""Columns that ``predict`` writes; kept ones lie before the logit."""


@dataclass(frozen=True, slots=True)
class Offline:
    """A bundle opened for scoring files."""

    bundle: Bundle
    encoder: Encoder
    engine: Engine

    @classmethod
    def open(cls, path: Path, threads: int | None = None) -> Offline:
        """Open and verify a bundle, or the newest one in a directory."""
        bundle = Bundle.open(newest(path))
        encoder = Encoder(bundle.spec, bundle.vocabulary)
        engine = open_engine(bundle.graph, encoder, bundle.vocabulary.layout, threads=threads)
        return cls(bundle, encoder, engine)

    def frames(
        self,
        paths: Sequence[Path],
        part: DataPart | None = None,
        max_bad_lines: float = 0.0,
        stored: Sequence[StoredFiles] = (),
    ) -> Iterator[pl.DataFrame]:
        """Yield the rows of files, or one part of the rows that the bundle was made from.

        What the files lack comes from the ``stored`` ones.

        Raises:
            DataError: the files cannot be used, or a part is wanted of other files than those
                that the bundle was trained on.
        """
        spec, manifest = self.bundle.spec, self.bundle.manifest
        if part is None:
            values = [read_stored(spec, each, max_bad_lines) for each in stored]
            reader = Reader(spec, paths, max_bad_lines, stored=values)
            reader.require_columns(joins=True)
            yield from reader.frames()
            warn_each(reader.warnings)
            return
        described = manifest.training["split"]
        if described["mode"] == "files":
            raise DataError("this bundle's parts are files of their own: give those of one")
        inputs = InputFiles(
            paths, None, described["mode"], described["seed"], max_bad_lines, [part], stored
        )
        with TemporaryDirectory(prefix="ctr-") as directory:
            try:
                split_rows = inputs.read(spec, Path(directory))
            except OSError as error:
                raise DataError(
                    f"the rows could not be kept in {directory}: {error.strerror}; TMPDIR in the"
                    " environment names another place"
                ) from error
            warn_each(split_rows.warnings)
            recorded = [source["sha256"] for source in manifest.data]
            if [source.sha256 for source in split_rows.sources[part]] != recorded:
                raise DataError("these are not the files that this bundle was trained on")
            for where, frame in split_rows.on_disk.frames():
                chosen = np.flatnonzero(split_rows.part[where] == PARTS.index(part))
                yield frame[chosen.tolist()]

    def evaluate(self, frames: Iterable[pl.DataFrame], kept: float = 1.0) -> Quality:
        """Return the figures of labelled rows, which hold a share ``kept`` of the negatives.

        Fields that are known in training only have the values of the rows, as in training.
        """
        encoder = Encoder(self.bundle.spec, self.bundle.vocabulary, training=True)
        label, logit = [np.zeros(0, np.uint8)], [np.zeros(0, np.float32)]
        weight = [np.zeros(0, np.float32)]
        for frame in frames:
            data = encode(self.bundle.spec, encoder, frame)
            label.append(data.label)
            if data.weight is not None:
                weight.append(data.weight)
            logit.append(score_dataset(self.engine, data).logit)
        found = calibrated(self.calibration, np.concatenate(logit))
        weighed = np.concatenate(weight) if self.bundle.spec.weight is not None else None
        return evaluate_scores(np.concatenate(label), found, kept, weighed)

    @property
    def calibration(self) -> Calibration | None:
        """The calibration in the graph, if there is one."""
        return Calibration.of(self.bundle.manifest.training.get("calibration"))

    def predict(
        self,
        paths: Sequence[Path],
        out: Path,
        max_bad_lines: float,
        keep: Sequence[str] = (),
        stored: Sequence[StoredFiles] = (),
    ) -> int:
        """Write file, line, logit and score of every row that is scored; return how many.

        ``keep`` names columns of the input that are written beside them, as they are in it.

        Raises:
            DataError: a file cannot be read, lacks a column, or is given twice.
            ResultError: ``out`` cannot be written, is one of the files, or would have two columns
                of one name.
        """
        require_different(paths)
        inputs = [*paths, *(path for each in stored for path in each.paths)]
        require_file(out, inputs, self.bundle.path)
        require_table_name(out)
        check_kept(keep)
        spec, rows, kept = self.bundle.spec, 0, list(dict.fromkeys(keep))
        values = [read_stored(spec, each, max_bad_lines) for each in stored]
        reader = Reader(
            spec, paths, max_bad_lines, label=False, progress=True, keep=kept, stored=values
        )
        reader.require_columns(joins=True)
        with score_table(out) as table:
            for frame in reader.frames():
                table.add(self.scored(frame, kept))
                rows += frame.height
            warn_each(reader.warnings)
        return rows

    def scored(self, frame: pl.DataFrame, kept: Sequence[str]) -> pl.DataFrame:
        """Return what ``predict`` writes of rows, whose columns ``kept`` it keeps.

        A row's scores have the same bits whatever rows are beside it.
        """
        scores = Scores(np.zeros(0, np.float32), np.zeros(0, np.float32))
        if frame.height:
            data = encode(self.bundle.spec, self.encoder, frame, label=False)
            scores = score_dataset(self.engine, data, whole_runs=True)
        return pl.DataFrame(
            [
                frame[FILE].alias("file"),
                frame[LINE].alias("line"),
                *(frame[KEPT + name].alias(name) for name in kept),
                pl.Series("logit", scores.logit),
                pl.Series("score", scores.score),
                pl.Series("version", [self.bundle.version]).new_from_index(0, frame.height),
            ]
        )


def require_different(paths: Sequence[Path]) -> None:
    """Refuse a file that is given twice.

    Raises:
        DataError: one is.
    """
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise DataError(f"{twice[0]} is given twice: its rows could not be told apart")


def check_kept(keep: Sequence[str]) -> None:
    """Refuse to keep a column that has the name of one of the result.

    Raises:
        ResultError: one has.
    """
    if taken := [name for name in keep if name in RESULT_COLUMNS]:
        raise ResultError(
            f"--keep: {taken[0]!r} is a column of the result ({', '.join(RESULT_COLUMNS)});"
            " give that of the input another name"
        )


def warn_each(warnings: Sequence[str]) -> None:
    """Print warnings."""
    for warning in warnings:
        warn(warning)
