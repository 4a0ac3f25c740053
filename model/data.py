"""Click logs in files → columns of raw values, checked line by line, and their split.

A file's cell becomes the value that JSON would hold for it; from there on training goes
through the same encoder as serving. All work per value is done once per distinct value.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from app.canonical import integer_key, seconds
from app.encoder import ColumnProblem, field_encoder
from app.errors import CtrError, ValueProblem
from app.spec import FeatureSpec, Field, MultiCategorical, Numeric, Time, is_scaled
from app.vocabulary import Edges, Integers, Scale, SlotVocabulary, Vocabulary, arrange
from model.files import sha256

LINE, FILE = "__line__", "__file__"
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
SHOWN_BAD_LINES = 10
_CHUNK_BYTES = 64 * 2**20
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)

SplitMode = Literal["auto", "time", "random"]
Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


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
    """Lines that cannot be used, and why; ``total`` counts good and bad ones."""

    lines: list[tuple[str, int, str]] = field(default_factory=list)
    total: int = 0

    def add(self, file: str, line: int, problem: str) -> None:
        """Note one bad line."""
        self.lines.append((file, line, problem))

    def report(self) -> str:
        """Count the bad lines and show the first few."""
        shown = "".join(f"\n  {f}:{n}: {why}" for f, n, why in self.lines[:SHOWN_BAD_LINES])
        more = len(self.lines) - SHOWN_BAD_LINES
        return (
            f"{len(self.lines)} of {self.total} lines are bad:{shown}"
            + (f"\n  and {more} more" if more > 0 else "")
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of raw values with their origin (columns ``FILE`` and ``LINE``), and the sources."""

    frame: pl.DataFrame
    sources: tuple[Source, ...]
    bad: BadLines

    def label(self, spec: FeatureSpec) -> NDArray[np.uint8]:
        """Return the labels; :func:`read` has checked that each is 0 or 1."""
        values, codes = distinct(self.frame[spec.label])
        return np.array([int(_label(value)) for value in values], np.uint8)[codes]


def read(
    spec: FeatureSpec, paths: Sequence[Path], max_bad_lines: float = 0.0, label: bool = True
) -> Table:
    """Read and check all files; bad lines are left out, counted and named.

    Raises:
        DataError: a column is absent, a label is neither 0 nor 1, or the share of bad lines
            is above ``max_bad_lines``.
    """
    if not paths:
        raise DataError("no data files given")
    bad = BadLines()
    frames, sources = [], []
    for path in paths:
        try:
            frame = _read_file(spec, path, bad, label)
            digest = sha256(path)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"cannot read {path}: {error}") from error
        frames.append(frame)
        sources.append(Source(path.name, digest, path.stat().st_size, frame.height))
    try:
        frame = pl.concat(frames, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(f"the files' columns have types that do not go together: {error}") from None
    if label:
        _check_labels(spec, frame)
    frame = _drop_bad_rows(spec, frame, bad)
    if bad.lines and len(bad.lines) > max_bad_lines * bad.total:
        raise DataError(f"{bad.report()}\n(--max-bad-lines allows {max_bad_lines:g} of the lines)")
    if frame.is_empty():
        raise DataError("the data has no usable row")
    return Table(frame, tuple(sources), bad)


def _read_file(spec: FeatureSpec, path: Path, bad: BadLines, label: bool) -> pl.DataFrame:
    wanted = list(dict.fromkeys(f.name for f in spec.fields))
    wanted += [spec.label] if label else []
    # Only labelled rows are ever split along time.
    if label and spec.timestamp is not None and spec.timestamp not in wanted:
        wanted.append(spec.timestamp)
    if path.suffix == ".parquet":
        try:
            names = pl.read_parquet_schema(path)
            _require_columns(path, wanted, list(names))
            frame = pl.read_parquet(path, columns=wanted)
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{path.name} cannot be read as Parquet: {error}") from error
        frame = frame.with_columns(pl.int_range(1, 1 + pl.len(), dtype=pl.Int64).alias(LINE))
        bad.total += frame.height
    else:
        frame = _read_text(spec, path, wanted, bad)
    return frame.with_columns(pl.lit(path.name).alias(FILE))


def _require_columns(path: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
    for name in wanted:
        if present.count(name) != 1:
            state = "is absent" if name not in present else "is there more than once"
            raise DataError(f"{path.name}: column {name!r} {state}")


def _read_text(spec: FeatureSpec, path: Path, wanted: Sequence[str], bad: BadLines) -> pl.DataFrame:
    """Read a delimited file: one record a line; text is left as text."""
    suffix = next((s for s in reversed(path.suffixes) if s != ".gz"), "")
    delimiter = spec.delimiter or DELIMITERS.get(suffix)
    if delimiter is None:
        raise DataError(f"{path.name}: unknown ending {suffix!r}; give the spec a `delimiter`")
    quote = '"' if delimiter != "\t" else None
    with _open(path) as file:
        names, first_line = _header(spec, path, file, delimiter)
        _require_columns(path, wanted, names)
        schema = {f"column_{i + 1}": pl.String() for i in range(len(names))}
        kept = [f"column_{names.index(name) + 1}" for name in wanted]
        frames = []
        for numbers, lines in _good_lines(path, file, delimiter, len(names), first_line, bad):
            frame = pl.read_csv(
                b"\n".join(lines) + b"\n", has_header=False, schema=schema, columns=kept,
                separator=delimiter, quote_char=quote,
            ).select(pl.col(kept[i]).alias(name) for i, name in enumerate(wanted))  # fmt: skip
            if frame.height != len(lines):
                raise DataError(f"{path.name}: quotes near line {numbers[0]} do not pair up")
            frames.append(frame.with_columns(pl.Series(LINE, numbers, pl.Int64)))
    if not frames:
        raise DataError(f"{path.name} has no usable line\n{bad.report() if bad.lines else ''}")
    return pl.concat(frames)


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


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
    while chunk := file.readlines(_CHUNK_BYTES):
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


def distinct(column: pl.Series) -> tuple[list[Any], NDArray[np.int64]]:
    """Return the distinct values of a column and, for every row, the place of its value."""
    values = column.unique(maintain_order=True).to_frame("v").with_row_index("code")
    codes = column.to_frame("v").join(
        values, on="v", how="left", nulls_equal=True, maintain_order="left"
    )["code"]
    return values["v"].to_list(), codes.to_numpy().astype(np.int64)


def field_values(spec_field: Field, column: pl.Series) -> tuple[list[Any], NDArray[np.int64]]:
    """Like :func:`distinct`, the values turned into what JSON would hold for them."""
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    textual = column.dtype == pl.String
    if column.dtype == pl.Date:
        column = column.dt.to_string("%Y-%m-%d")
    elif isinstance(column.dtype, pl.Datetime):
        if column.dtype.time_zone is None and isinstance(spec_field, Time):
            # Text keeps local time local: the encoder settles hours that clocks skip or repeat.
            column = column.dt.to_string("%Y-%m-%dT%H:%M:%S")
        else:
            column = column.dt.epoch("s")
    values, codes = distinct(column)
    if textual:
        values = [_cell(spec_field, value) for value in values]
    return values, codes


def _cell(spec_field: Field, text: str | None) -> Any:
    """Turn the cell of a text file into the JSON value that means the same.

    Text that is no number stays text, which the encoder then refuses.
    """
    if text is None:
        return None
    if isinstance(spec_field, MultiCategorical):
        return [token for token in text.split(spec_field.separator) if token] if text else None
    if isinstance(spec_field, Numeric):
        if not text:
            return None
        return float(text) if _NUMBER.fullmatch(text) else text
    return text


def _label(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    key = integer_key(value)
    if key not in (0, 1):
        raise ValueProblem("it is neither 0 nor 1")
    return bool(key)


def _check_labels(spec: FeatureSpec, frame: pl.DataFrame) -> None:
    values, codes = distinct(frame[spec.label])
    wrong = []
    for code, value in enumerate(values):
        try:
            _label(value)
        except ValueProblem:
            wrong.append(code)
    rows = np.flatnonzero(np.isin(codes, wrong))
    if len(rows):
        where = frame.row(int(rows[0]), named=True)
        raise DataError(
            f"{where[FILE]}:{where[LINE]}: label {spec.label!r} is neither 0 nor 1"
            f" ({len(rows)} rows like it)"
        )


def unlearned(spec: FeatureSpec) -> Vocabulary:
    """A vocabulary without any value: enough to check values by the spec's rules."""
    layout = arrange(spec, {name: 0 for f in spec.fields for name in f.slot_names})
    nothing = np.zeros(0, np.int32)
    slots: dict[str, SlotVocabulary] = {}
    for spec_field in spec.fields:
        for name in spec_field.slot_names:
            if is_scaled(spec_field):
                slots[name] = Scale(np.array([0, 1], np.float32))
            elif isinstance(spec_field, Numeric) and spec_field.encoding != "log_squared":
                slots[name] = Edges(np.zeros(0, np.float32))
            else:
                slots[name] = Integers.of([], nothing)
    return Vocabulary(layout, slots)


def _drop_bad_rows(spec: FeatureSpec, frame: pl.DataFrame, bad: BadLines) -> pl.DataFrame:
    """Note and leave out every row with a value that breaks its field's rules."""
    vocabulary = unlearned(spec)
    good = np.ones(frame.height, bool)
    for spec_field in spec.fields:
        values, codes = field_values(spec_field, frame[spec_field.name])
        try:
            field_encoder(spec_field, vocabulary).many(values)
        except ColumnProblem as column:
            problems = {code: problem.problem for code, problem in column.problems}
            rows = np.flatnonzero(np.isin(codes, list(problems)) & good)
            good[rows] = False
            origins = frame[rows.tolist()].select(FILE, LINE).iter_rows()
            for (file, line), code in zip(origins, codes[rows].tolist(), strict=True):
                bad.add(file, line, f"field {spec_field.name!r}: {problems[code]}")
    return frame if good.all() else frame.filter(pl.Series(good))


def split(
    spec: FeatureSpec,
    table: Table,
    mode: SplitMode = "auto",
    seed: int = 1,
    shares: tuple[float, float] = (0.8, 0.1),
) -> dict[Part, NDArray[np.int64]]:
    """Return the row numbers of each part; ``shares`` are those of training and validation.

    ``time`` cuts along the spec's timestamp (rows of one moment keep the file's order),
    ``random`` by a seeded shuffle, ``auto`` is ``time`` where the spec has a timestamp.

    Raises:
        DataError: a part would be empty, or a row has no usable timestamp.
    """
    rows = table.frame.height
    if mode == "time" or (mode == "auto" and spec.timestamp is not None):
        order = np.argsort(_moments(spec, table), kind="stable")
    else:
        order = np.random.default_rng(seed).permutation(rows)
    first, second = round(rows * shares[0]), round(rows * (shares[0] + shares[1]))
    parts = dict(zip(PARTS, (order[:first], order[first:second], order[second:]), strict=True))
    for name, part in parts.items():
        if len(part) == 0:
            raise DataError(f"{rows} rows are too few: the {name} part is empty")
    return parts


def _moments(spec: FeatureSpec, table: Table) -> NDArray[np.int64]:
    if spec.timestamp is None:
        raise DataError("the spec has no `timestamp` to split along")
    like: Time = next(
        (f for f in spec.fields if isinstance(f, Time) and f.name == spec.timestamp),
        Time(name=spec.timestamp, side="context", parts=("hour",), format=spec.timestamp_format),
    )
    values, codes = field_values(like, table.frame[spec.timestamp])
    zone = ZoneInfo(like.timezone)
    moments = np.zeros(len(values), np.int64)
    for code, value in enumerate(values):
        try:
            moments[code] = seconds(value, zone, like.format)
        except ValueProblem as problem:
            where = table.frame.row(int(np.argmax(codes == code)), named=True)
            raise DataError(
                f"{where[FILE]}:{where[LINE]}: timestamp {spec.timestamp!r}: {problem.problem}"
            ) from None
    return moments[codes]
