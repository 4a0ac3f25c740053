"""Click logs in files → frames of raw cells, some hundred thousand lines at a time."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple, cast

import polars as pl
from polars import selectors as cs

from app.errors import CtrError
from app.features.spec import FeatureSpec

LINE, FILE = "\0line", "\0file"
"""Columns of a frame beside those of the spec, whose names have no NUL."""
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
SHOWN_BAD_LINES = 10
ROWS_AT_ONCE = 2**17
_BYTES_AT_ONCE = 32 * 2**20


class DataError(CtrError):
    """Data that cannot be trained on; the message names file, line and column."""


@dataclass(frozen=True, slots=True)
class Source:
    """One input file, as the manifest records it."""

    name: str
    sha256: str
    bytes: int
    rows: int


@dataclass(slots=True)
class BadLines:
    """Lines that cannot be used: their count and the first of them; ``total`` is of all lines."""

    lines: list[tuple[str, int, str]] = field(default_factory=list)
    """File, line and problem."""
    count: int = 0
    total: int = 0

    def add(self, file: str, line: int, problem: str) -> None:
        """Note one bad line."""
        self.count += 1
        if len(self.lines) < SHOWN_BAD_LINES:
            self.lines.append((file, line, problem))

    def report(self) -> str:
        """Count the bad lines and show the first few."""
        shown = "".join(f"\n  {f}:{n}: {why}" for f, n, why in self.lines)
        more = self.count - len(self.lines)
        return f"{self.count} of {self.total} lines are bad:{shown}" + (
            f"\n  and {more} more" if more else ""
        )


class Piece(NamedTuple):
    """Lines of a file in their order, with the columns ``FILE`` and ``LINE``."""

    frame: pl.DataFrame
    bytes: int
    """Approximate position in the file of their end."""


def pieces(spec: FeatureSpec, path: Path, wanted: Sequence[str], bad: BadLines) -> Iterator[Piece]:
    """Read the wanted columns of a file, a bounded number of lines at a time.

    Raises:
        DataError: the file cannot be read, or a column is absent.
    """
    if path.is_dir():
        raise DataError(f"{path} is a directory: name the files in it")
    read = _parquet if path.suffix.lower() == ".parquet" else _text
    try:
        for frame, position in read(spec, path, wanted, bad):
            yield Piece(frame.with_columns(pl.lit(path.name).alias(FILE)), position)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {path}: {reason}") from error


def _parquet(
    spec: FeatureSpec, path: Path, wanted: Sequence[str], bad: BadLines
) -> Iterator[tuple[pl.DataFrame, int]]:
    try:
        _require_columns(path, wanted, list(pl.read_parquet_schema(path)))
        file = pl.scan_parquet(path, glob=False)
        rows, size = file.select(pl.len()).collect().item(), path.stat().st_size
        for start in range(0, rows, ROWS_AT_ONCE):
            # Slices, not batches: those hold whole row groups, several at a time.
            frame = file.select(cs.by_name(*wanted)).slice(start, ROWS_AT_ONCE).collect()
            bad.total += frame.height
            stop = start + frame.height
            numbers = pl.int_range(start + 1, stop + 1, dtype=pl.Int64, eager=True)
            yield frame.with_columns(numbers.alias(LINE)), size * stop // rows
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path.name} cannot be read as Parquet: {error}") from error


def _require_columns(path: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
    for name in wanted:
        if present.count(name) != 1:
            state = "is absent" if name not in present else "is there more than once"
            raise DataError(f"{path.name}: column {name!r} {state}")


def _text(
    spec: FeatureSpec, path: Path, wanted: Sequence[str], bad: BadLines
) -> Iterator[tuple[pl.DataFrame, int]]:
    """Read a delimited file: one record a line; text is left as text."""
    suffix = next((s for s in reversed(path.suffixes) if s.lower() != ".gz"), "")
    delimiter = spec.delimiter or DELIMITERS.get(suffix.lower())
    if delimiter is None:
        raise DataError(f"{path.name}: unknown ending {suffix!r}; give the spec a `delimiter`")
    quote = '"' if delimiter != "\t" else None
    usable = False
    with _open(path) as (raw, file):
        names, first_line = _header(spec, path, file, delimiter)
        _require_columns(path, wanted, names)
        schema = {f"column_{i + 1}": pl.String() for i in range(len(names))}
        kept = [f"column_{names.index(name) + 1}" for name in wanted]
        for numbers, lines in _good_lines(path, file, delimiter, len(names), first_line, bad):
            frame = pl.read_csv(
                b"\n".join(lines) + b"\n",
                has_header=False,
                schema=schema,
                columns=kept,
                separator=delimiter,
                quote_char=quote,
            ).select(pl.col(kept[i]).alias(name) for i, name in enumerate(wanted))
            if frame.height != len(lines):
                raise DataError(f"{path.name}: quotes near line {numbers[0]} do not pair up")
            usable = True
            yield frame.with_columns(pl.Series(LINE, numbers, pl.Int64)), raw.tell()
    if not usable:
        raise DataError(f"{path.name} has no usable line\n{bad.report() if bad.count else ''}")


@contextmanager
def _open(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open a file; yield it as it is on disk, whose position tells progress, and decompressed."""
    with path.open("rb") as raw:
        yield (
            raw,
            cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.suffix.lower() == ".gz" else raw,
        )


def _header(
    spec: FeatureSpec, path: Path, file: IO[bytes], delimiter: str
) -> tuple[list[str], int]:
    """Return the column names and the number of the first line of data."""
    if spec.columns is not None:
        return list(spec.columns), 1
    try:
        line = file.readline().decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}:1: the header is not UTF-8") from error
    if not line:
        raise DataError(f"{path.name} is empty")
    return next(csv.reader([line], delimiter=delimiter)), 2


def _good_lines(
    path: Path, file: IO[bytes], delimiter: str, width: int, number: int, bad: BadLines
) -> Iterator[tuple[list[int], list[bytes]]]:
    """Yield chunks of lines with the right number of cells, and their line numbers."""
    mark = delimiter.encode()
    quoting = delimiter != "\t"
    edge = re.escape(mark)
    quoted = re.compile(rb'(^|%b)"[^"]*(?:""[^"]*)*"(?=%b|\Z)' % (edge, edge))
    while chunk := file.readlines(_BYTES_AT_ONCE):
        numbers, lines = [], []
        for raw in chunk:
            line = raw.rstrip(b"\r\n")
            problem = None
            if line:
                bare = quoted.sub(rb"\1", line) if quoting and b'"' in line else line
                cells = bare.count(mark) + 1
                if quoting and b'"' in bare:
                    problem = "a quote that does not pair up"
                elif cells != width:
                    problem = f"{cells} cells, expected {width}"
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
                    bad.add(path.name, number, problem)
            number += 1
        if lines:
            yield numbers, lines
