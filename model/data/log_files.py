"""Click logs in files → frames of raw values, some hundred thousand lines at a time."""

from __future__ import annotations

import csv
import json
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import polars as pl
from polars import selectors as cs

from app.errors import CtrError
from app.features.nearest import suggestion
from app.features.spec import FeatureSpec
from model.data.bad_lines import BadLines
from model.data.file_blocks import WHOLE, FilePart, chunks_of
from model.data.file_kinds import (
    DELIMITERS,
    NOT_DECOMPRESSED,
    ending_of_text,
    is_json_lines,
    is_parquet,
)
from model.data.json_lines import Columns, UnreadableLine, as_bytes, as_text, read_object
from model.data.opened_text import FIRST_BYTES, open_text
from model.data.parquet_columns import ParquetColumns, UnreadableColumn, check_fit

LINE, FILE = "\0line", "\0file"
"""Columns of a frame beside those of the spec, whose names have no NUL."""
KEPT = "\0kept "
"""Before the name of a column that is in a frame as the file has it."""
_SHOWN_NAMES = 200
"""Characters of the columns' names in a message."""
ROWS_AT_ONCE = 2**17
_BYTES_AT_ONCE = 32 * 2**20
_JSON_BYTES_AT_ONCE = 8 * 2**20
"""Values of a line as Python holds them take several times its bytes."""
_OTHER_DELIMITERS = (",", ";", "\t", "|")
"""Delimiters that a file may have where the spec says another."""
_SINGLE_BYTES = b"\x1f\x1e\x1d\x1c\x01\x02\x03\x04\x05\x06\x07\x0e\x0f\x10\x11\x12\x13\x14\x15"
"""Control characters, one of which stands for a long delimiter in text that lacks it."""


class DataError(CtrError):
    """Data that cannot be trained on; the message names file, line and column."""


class AbsentColumns(DataError):
    """A file lacks columns; the message names the first."""

    # Defaults let it be pickled: a process may raise it in another's place.
    def __init__(self, message: str, names: Sequence[str] = (), near: bool = False) -> None:
        super().__init__(message)
        self.names = names
        self.near = near
        """True if a column that is there was probably meant."""


def no_usable_line(name: str, bad: BadLines) -> DataError:
    """Return the error of a file that has lines, all of them bad."""
    return DataError(f"{name} has no usable line\n{bad.report()}")


@dataclass(frozen=True, slots=True)
class Source:
    """One input file, as the manifest records it."""

    name: str
    sha256: str
    bytes: int
    rows: int


class LogFile(NamedTuple):
    """A file, and its name in messages and results."""

    path: Path
    name: str


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


class _Wanted(NamedTuple):
    """The columns that are read."""

    names: Sequence[str]
    keep: Sequence[str]
    optional: Collection[str]
    key: str | None = None
    part: FilePart = WHOLE

    def of(self, file: LogFile, present: Sequence[str]) -> list[str]:
        """Return those of a file with these columns, but for kept ones.

        Raises:
            DataError: it lacks one.
        """
        wanted = [n for n in self.names if n in present or n not in self.optional]
        _require_columns(file, wanted, present)
        _require_columns(file, self.keep, present, "--keep: ")
        return wanted


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
        read = _parquet if is_parquet(path) else _json if is_json_lines(path) else _text
        for frame, position in read(spec, file, _Wanted(wanted, keep, optional, key, part), bad):
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
            _Wanted(wanted, keep, optional).of(file, names)


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
    return _text_names(spec, file)


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
    spec: FeatureSpec, file: LogFile, wanted: _Wanted, bad: BadLines
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


def _require_columns(
    file: LogFile, wanted: Sequence[str], present: Sequence[str], option: str = ""
) -> None:
    for name in wanted:
        if name not in present:
            if mark := _meant_delimiter(wanted, present):
                raise AbsentColumns(
                    f"{option}{file.name}: column {name!r} is absent, as names are separated by"
                    f" {mark!r} there: delimiter = {json.dumps(mark)} in the feature spec reads it"
                )
            names = ", ".join(map(repr, present))
            shown = names if len(names) <= _SHOWN_NAMES else f"{names[:_SHOWN_NAMES]}…"
            # A column that is wanted itself was not meant by another name.
            near = suggestion(name, [each for each in present if each not in wanted])
            raise AbsentColumns(
                f"{option}{file.name}: column {name!r} is absent; the columns are {shown}{near}",
                [each for each in wanted if each not in present],
                bool(near),
            )
        if present.count(name) > 1:
            raise DataError(f"{option}{file.name}: column {name!r} is there more than once")


def _meant_delimiter(wanted: Sequence[str], present: Sequence[str]) -> str:
    """Return what separates the wanted names within a header that was read as one; else empty."""
    if len(present) != 1:
        return ""
    parted = {mark: present[0].split(mark) for mark in _OTHER_DELIMITERS}
    return next((mark for mark, names in parted.items() if {*wanted} <= {*names}), "")


def _text(
    spec: FeatureSpec, file: LogFile, wanted: _Wanted, bad: BadLines
) -> Iterator[tuple[pl.DataFrame, int]]:
    """Read a delimited file: one record a line; text is left as text."""
    delimiter = _delimiter(spec, file)
    total, usable = bad.total, False
    with open_text(file.path) as (on_disk, opened):
        names, first_line = _header(spec, file, opened, delimiter)
        if names is None:
            return
        own = wanted.of(file, names)
        read = list(dict.fromkeys([*own, *wanted.keep]))
        if wanted.part.start:
            first_line = wanted.part.first_line
        chunks = chunks_of(opened, _BYTES_AT_ONCE, wanted.part)
        for numbers, lines in _good_lines(file, chunks, delimiter, len(names), first_line, bad):
            frame = _parsed(b"\n".join(lines) + b"\n", delimiter, names, read)
            if frame.height != len(lines):
                raise DataError(f"{file.name}: quotes near line {numbers[0]} do not pair up")
            usable = True
            kept = [frame[name].alias(KEPT + name) for name in wanted.keep]
            frame = frame.select(cs.by_name(*own)).with_columns(kept)
            yield frame.with_columns(pl.Series(LINE, numbers, pl.Int64)), on_disk.tell()
    if bad.total > total and not usable and wanted.part == WHOLE:
        raise no_usable_line(file.name, bad)


def _json(
    spec: FeatureSpec, file: LogFile, wanted: _Wanted, bad: BadLines
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


def _text_names(spec: FeatureSpec, file: LogFile) -> list[str] | None:
    """Return the names of a file's columns, None if it is empty."""
    delimiter = _delimiter(spec, file)
    with open_text(file.path) as (_, opened):
        return _header(spec, file, opened, delimiter)[0]


def _delimiter(spec: FeatureSpec, file: LogFile) -> str:
    """Return the spec's delimiter, or the one that the file's ending suggests."""
    path = file.path
    ending = ending_of_text(path)
    if ending in NOT_DECOMPRESSED:
        raise DataError(f"{file.name} is compressed with another program than gzip: decompress it")
    delimiter = spec.delimiter or DELIMITERS.get(ending)
    if delimiter is None:
        shown = next(s for s in reversed(path.suffixes) if s.lower() == ending) if ending else ""
        raise DataError(
            f"{file.name}: unknown ending {shown!r}; CSV, TSV, JSON lines and Parquet are read, and"
            " other delimited text if the spec has a `delimiter`"
        )
    return delimiter


def _parsed(
    text: bytes, delimiter: str, names: Sequence[str], wanted: Sequence[str]
) -> pl.DataFrame:
    """Parse lines of equal width into the wanted columns, as text."""
    single, replaced = delimiter, text
    if len(delimiter.encode()) > 1:
        single = _absent(text)
        replaced = text.replace(delimiter.encode(), single.encode())
    places = [names.index(name) for name in wanted]
    frame = pl.read_csv(
        replaced,
        has_header=False,
        schema={f"column_{place + 1}": pl.String() for place in range(len(names))},
        columns=[f"column_{place + 1}" for place in places],
        separator=single,
        quote_char=None if delimiter == "\t" else '"',
    ).select(pl.col(f"column_{place + 1}").alias(names[place]) for place in places)
    if single == delimiter:
        return frame
    # Inside of quotes the delimiter is text.
    return frame.with_columns(pl.all().str.replace_all(single, delimiter, literal=True))


def _absent(text: bytes) -> str:
    """Return a character that takes one byte and is not in a text."""
    for byte in _SINGLE_BYTES:
        if byte not in text:
            return chr(byte)
    raise DataError("a `delimiter` of several bytes needs text without control characters")


def _header(
    spec: FeatureSpec, file: LogFile, opened: IO[bytes], delimiter: str
) -> tuple[list[str] | None, int]:
    """Return the column names, None in an empty file, and the number of the first data line."""
    if spec.columns is not None:
        return list(spec.columns), 1
    content = opened.readline()
    try:
        line = content.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file.name}:1: the header is not UTF-8") from error
    if not line:
        if not opened.read(FIRST_BYTES).strip():
            return None, 2
        raise DataError(f"{file.name}:1: the header is an empty line")
    single = _absent(content)
    names = next(csv.reader([line.replace(delimiter, single)], delimiter=single))
    return [name.replace(single, delimiter) for name in names], 2


def _good_lines(
    file: LogFile,
    chunks: Iterable[list[bytes]],
    delimiter: str,
    width: int,
    number: int,
    bad: BadLines,
) -> Iterator[tuple[list[int], list[bytes]]]:
    """Yield chunks of lines with the right number of values, and their line numbers."""
    mark = delimiter.encode()
    quoting = delimiter != "\t"
    edge = re.escape(mark)
    quoted = re.compile(rb'(^|%b)"[^"]*(?:""[^"]*)*"(?=%b|\Z)' % (edge, edge))
    for chunk in chunks:
        numbers, lines = [], []
        for ended in chunk:
            line = ended.rstrip(b"\r\n")
            problem = None
            if line:
                bare = quoted.sub(rb"\1", line) if quoting and b'"' in line else line
                values = bare.count(mark) + 1
                if quoting and b'"' in bare:
                    problem = "a quote that does not pair up"
                elif values != width:
                    problem = f"{values} values, expected {width}"
                elif not line.isascii():
                    try:
                        line.decode()
                    except UnicodeDecodeError:
                        problem = "not UTF-8"
                bad.total += 1
                if problem is None:
                    numbers.append(number)
                    lines.append(line)
                else:
                    bad.add(file.name, number, problem)
            number += 1
        if lines:
            yield numbers, lines
