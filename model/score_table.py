"""The table that ``predict`` writes: a Parquet, CSV or TSV file, whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import polars as pl

from app.files import partial_directory, put_in_place
from model.result_places import ResultError, reason_of

SEPARATORS = {".csv": ",", ".tsv": "\t"}
_PARQUET = {"", ".parquet", ".parq", ".pq"}
Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)
_IN_TEXT = (
    pl.String,
    pl.Categorical,
    pl.Enum,
    pl.Boolean,
    pl.Null,
    pl.Date,
    pl.Datetime,
    pl.Time,
)
"""Types beside numbers that text files can hold."""


def require_table_name(path: Path) -> None:
    """Check that a name's ending is that of a format that can be written.

    Raises:
        ResultError: it is not.
    """
    suffix = path.suffix.lower()
    if suffix not in SEPARATORS and suffix not in _PARQUET:
        raise ResultError(
            f"{path} cannot be written: unknown ending {suffix!r}; .parquet, .csv and .tsv are"
            " written"
        )


class ScoreTable:
    """Takes frames of the same columns, one after the other; only one is in memory."""

    def __init__(self, path: Path, directory: Path) -> None:
        self._path, self._directory = path, directory
        self._separator = SEPARATORS.get(path.suffix.lower())
        self._parts: list[Path] = []
        self.metadata: Mapping[str, str] | None = None
        """Texts that a Parquet file keeps beside its rows."""
        self._columns: pl.DataFrame | None = None
        """The columns of all parts so far, without rows."""

    def add(self, frame: pl.DataFrame) -> None:
        """Write the next rows.

        Raises:
            ResultError: a column has a type that text files cannot hold, or that does not go
                together with the rows before.
            OSError: there is no room for them.
        """
        self._widen(frame)
        part = self._directory / f"{len(self._parts)}"
        if self._separator is None:
            # Not to the file itself: of a full disk polars tells as of a damaged file.
            content = io.BytesIO()
            frame.write_parquet(content)
            part.write_bytes(content.getbuffer())
        else:
            part.write_text(self._as_text(frame, self._separator), encoding="utf-8")
        self._parts.append(part)

    def finish(self) -> None:
        """Give the rows their file.

        Raises:
            OSError: there is no room for them.
        """
        whole = self._directory / "whole"
        with whole.open("wb") as file:
            if self._separator is None:
                _join_parquet(self._parts, file, self.metadata)
            else:
                for part in self._parts:
                    file.write(part.read_bytes())
        put_in_place(whole, self._path)

    def _widen(self, frame: pl.DataFrame) -> None:
        """Note the columns' types: an integer column may be wider in one file than in another."""
        known, added = self._columns, frame.clear()
        try:
            self._columns = added if known is None else _concat([known, added])
        except pl.exceptions.PolarsError as error:
            raise ResultError(f"the kept columns of the files do not match: {error}") from error

    def _as_text(self, frame: pl.DataFrame, separator: str) -> str:
        for column in frame:
            if not (column.dtype.is_numeric() or isinstance(column.dtype, _IN_TEXT)):
                raise ResultError(
                    f"column {column.name!r} is of type {column.dtype}, which"
                    f" {self._path.suffix} cannot hold; name a .parquet file"
                )
        return frame.write_csv(separator=separator, include_header=not self._parts)


@contextmanager
def score_table(path: Path) -> Iterator[ScoreTable]:
    """Yield a table that becomes the file ``path`` on leaving, unless there is an error.

    Raises:
        ResultError: there is no room for it; nothing is left.
    """
    try:
        with partial_directory(path.parent) as directory:
            table = ScoreTable(path, directory)
            yield table
            table.finish()
    except OSError as error:
        raise ResultError(
            f"{path} cannot be written: {error.strerror or reason_of(error)}"
        ) from error


class _Noting(io.RawIOBase):
    """A file that keeps the first error of writing, which polars turns into one of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


def _join_parquet(
    parts: Sequence[Path], file: IO[bytes], metadata: Mapping[str, str] | None
) -> None:
    noting = _Noting(file)
    whole = _concat([pl.scan_parquet(part, glob=False) for part in parts])
    try:
        whole.sink_parquet(cast(IO[bytes], noting), metadata=dict(metadata) if metadata else None)
    except pl.exceptions.PolarsError as error:
        if noting.error is None:
            raise
        raise noting.error from error


def _concat(frames: Sequence[Frame]) -> Frame:
    """Put frames one after the other, each column in a type that holds its values in all."""
    return pl.concat(frames, how="vertical_relaxed")
