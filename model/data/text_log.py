"""Delimited text → frames of its values as text, some hundred thousand lines at a time."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import polars as pl
from polars import selectors as cs

from app.features.spec import FeatureSpec
from model.data.bad_lines import BadLines
from model.data.errors import DataError, no_usable_line
from model.data.file_blocks import WHOLE, chunks_of
from model.data.file_kinds import DELIMITERS, NOT_DECOMPRESSED, ending_of_text
from model.data.opened_text import FIRST_BYTES, open_text
from model.data.wanted_columns import KEPT, LINE, LogFile, Wanted

_BYTES_AT_ONCE = 32 * 2**20
_SINGLE_BYTES = b"\x1f\x1e\x1d\x1c\x01\x02\x03\x04\x05\x06\x07\x0e\x0f\x10\x11\x12\x13\x14\x15"
"""Control characters, one of which stands for a long delimiter in text that lacks it."""


def read_text(
    spec: FeatureSpec, file: LogFile, wanted: Wanted, bad: BadLines
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


def text_names(spec: FeatureSpec, file: LogFile) -> list[str] | None:
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
