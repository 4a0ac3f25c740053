"""Click logs in files → frames of raw values, some hundred thousand lines at a time."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl
from polars import selectors as cs

from app.features.spec import FeatureSpec
from model.data.bad_lines import BadLines
from model.data.errors import DataError, no_usable_line
from model.data.file_blocks import WHOLE, FilePart, chunks_of
from model.data.file_kinds import is_json_lines, is_parquet
from model.data.json_lines import Columns, UnreadableLine, as_bytes, as_text, read_object
from model.data.opened_text import open_text
from model.data.parquet_columns import ParquetColumns, UnreadableColumn, check_fit
from model.data.text_log import read_text, text_names
from model.data.wanted_columns import FILE, KEPT, LINE, LogFile, Wanted

ROWS_AT_ONCE = 2**17
_JSON_BYTES_AT_ONCE = 8 * 2**20
"""Values of a line as Python holds them take several times its bytes."""


@dataclass(frozen=True, slots=True)
class Source:
    """One input file, as the manifest records it."""

    name: str
    sha256: str
    bytes: int
    rows: int


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return each file's base name, or its path where another file has the same."""
    bases = [path.name for path in paths]
    return [path.name if bases.count(path.name) == 1 else str(path) for path in paths]


class Piece(NamedTuple):
    """Lines of a file in their order, with the columns ``FILE`` and ``LINE``."""

    frame: pl.DataFrame
    bytes: int
    """Approximate position in the file of their end."""


def visible(paths: Sequence[Path]) -> list[Path]:
    """Return the paths that may hold rows: not the markers beside them, as ``_SUCCESS``.

    Programs that write parts into a directory begin the names of other files with ``_`` or ``.``.
    """
    return [path for path in paths if not path.name.startswith(("_", "."))]


def pieces(
    spec: FeatureSpec,
    path: Path,
    wanted: Sequence[str],
    bad: BadLines,
    keep: Sequence[str] = (),
    name: str | None = None,
    optional: Collection[str] = (),
    key: str | None = None,
    part: FilePart = WHOLE,
) -> Iterator[Piece]:
    """Read the wanted columns of a file, or of a part of it, a bounded number of lines at a time.

    ``name`` is the file's in messages and frames, by default its base name.
    The columns ``keep`` are there a second time, as the file has them, under their names after
    ``KEPT``. A column of ``optional`` that a file lacks is not in its frames. With ``key`` lines of
    JSON may be entries of a store, whose id is the value of that column. A file without rows, or
    without content, has no pieces.

    Raises:
        DataError: the file cannot be read, or a column is absent or of a type that its field
            cannot have, or a whole file of text has lines and none that can be used.
    """
    file = LogFile(path, name or path.name)
    with _errors_of_reading(path):
        read = _parquet if is_parquet(path) else _json if is_json_lines(path) else read_text
        for frame, position in read(spec, file, Wanted(wanted, keep, optional, key, part), bad):
            yield Piece(frame.with_columns(pl.lit(file.name).alias(FILE)), position)


def require_columns(
    spec: FeatureSpec,
    files: Sequence[LogFile],
    wanted: Sequence[str],
    keep: Sequence[str] = (),
    optional: Collection[str] = (),
) -> None:
    """Check that files are there and have the columns, without reading their rows.

    Raises:
        AbsentColumns: a file lacks some; the first such file is named.
        DataError: as :func:`pieces` does.
    """
    for file in files:
        with _errors_of_reading(file.path):
            names = _names(spec, file)
        if names is not None:
            Wanted(wanted, keep, optional).of(file, names)


def column_names(spec: FeatureSpec, file: LogFile, key: str | None = None) -> list[str] | None:
    """Return the names of a file's columns, None if it has no rows.

    Those of JSON lines are the ones that its first lines have; ``key`` is that of :func:`pieces`.

    Raises:
        DataError: the file cannot be read.
    """
    with _errors_of_reading(file.path):
        if is_json_lines(file.path):
            return _json_names(file, key)
        return _names(spec, file)


def _json_names(file: LogFile, key: str | None) -> list[str] | None:
    """Return the names of the first lines' values, in the order in which they come."""
    names: dict[str, None] = {}
    with open_text(file.path) as (_, opened):
        for line in opened.readlines(_JSON_BYTES_AT_ONCE):
            # Lines that are no objects are told when all are read.
            with suppress(UnreadableLine):
                names.update(dict.fromkeys(read_object(line, key)))
    return list(names) or None


def _names(spec: FeatureSpec, file: LogFile) -> list[str] | None:
    """Return the names of a file's columns, None if it has no rows, or its lines name them."""
    if is_parquet(file.path):
        return _parquet_names(file)
    if is_json_lines(file.path):
        with open_text(file.path):
            return None
    return text_names(spec, file)


@contextmanager
def _errors_of_reading(path: Path) -> Iterator[None]:
    if path.is_dir():
        raise DataError(f"{path} is a directory: name the files in it")
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {path}: {reason}") from error


def _parquet_names(file: LogFile) -> list[str] | None:
    """Return the names of a file's columns, None if it has no rows."""
    with _errors_of_parquet(file):
        if not file.path.stat().st_size:
            return None
        columns = ParquetColumns.of(file.path)
        rows = columns.scan(file.path).select(pl.len()).collect().item()
        return list(columns.schema) if rows else None


@contextmanager
def _errors_of_parquet(file: LogFile) -> Iterator[None]:
    try:
        yield
    except UnreadableColumn as error:
        raise DataError(f"{file.name}: {error}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        # Types that polars does not know, such as views of lists, end in a panic.
        raise DataError(f"{file.name} cannot be read as Parquet: {error}") from error


def _parquet(
    spec: FeatureSpec, file: LogFile, wanted: Wanted, bad: BadLines
) -> Iterator[tuple[pl.DataFrame, int]]:
    with _errors_of_parquet(file):
        if not (size := file.path.stat().st_size):
            return
        columns = ParquetColumns.of(file.path)
        lazy = columns.scan(file.path)
        if not (rows := lazy.select(pl.len()).collect().item()):
            return
        read = wanted.of(file, list(columns.schema))
        names = dict.fromkeys([*read, *wanted.keep])
        end = rows if wanted.part.stop is None else wanted.part.stop
        for start in range(wanted.part.start, end, ROWS_AT_ONCE):
            # Slices, not batches: those hold whole row groups, several at a time.
            length = min(ROWS_AT_ONCE, end - start)
            found = lazy.select(cs.by_name(*names)).slice(start, length).collect()
            frame = columns.plain(found.select(cs.by_name(*read)))
            # A spec without fields is that of a first look, which takes what there is.
            if spec.fields:
                check_fit(spec, frame)
            frame = frame.with_columns(
                columns.kept(found[name]).alias(KEPT + name) for name in wanted.keep
            )
            bad.total += frame.height
            stop = start + frame.height
            numbers = pl.int_range(start + 1, stop + 1, dtype=pl.Int64, eager=True)
            yield frame.with_columns(numbers.alias(LINE)), size * stop // rows


def _json(
    spec: FeatureSpec, file: LogFile, wanted: Wanted, bad: BadLines
) -> Iterator[tuple[pl.DataFrame, int]]:
    """Read a file of JSON objects, one a line; values are left as their JSON."""
    total, usable, first = bad.total, False, wanted.part.first_line
    with open_text(file.path) as (on_disk, opened):
        for chunk in chunks_of(opened, _JSON_BYTES_AT_ONCE, wanted.part):
            columns: Columns = {name: [] for name in {*wanted.names, *wanted.keep}}
            numbers = [*_add_objects(columns, file, chunk, first, bad, wanted.key)]
            first += len(chunk)
            if numbers:
                usable = True
                frame = pl.DataFrame(
                    [pl.Series(name, columns[name], pl.Binary) for name in wanted.names]
                )
                kept = [as_text(KEPT + name, columns[name]) for name in wanted.keep]
                lines = pl.Series(LINE, numbers, pl.Int64)
                yield frame.with_columns(*kept, lines), on_disk.tell()
    if bad.total > total and not usable and wanted.part == WHOLE:
        raise no_usable_line(file.name, bad)


def _add_objects(
    columns: Columns,
    file: LogFile,
    lines: Sequence[bytes],
    first: int,
    bad: BadLines,
    key: str | None,
) -> Iterator[int]:
    """Add the values of each good line to the columns; yield its number."""
    for number, line in enumerate(lines, first):
        if line.strip():
            bad.total += 1
            try:
                values = read_object(line, key)
            except UnreadableLine as problem:
                bad.add(file.name, number, str(problem))
            else:
                for name, column in columns.items():
                    column.append(as_bytes(values, name))
                yield number
