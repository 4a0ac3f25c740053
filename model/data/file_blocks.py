"""Files → blocks that can be read in any order, on any machine: a look at each file's content.

A block is a range of lines of a plain text file, or of rows of a Parquet file. Gzipped text, and
text whose lines end in a carriage return alone, can be read only from its beginning: such a file
is one block.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import polars as pl

from app.files import sha256
from model.data.file_kinds import is_gzip, is_json_lines, is_parquet
from model.data.opened_text import FIRST_BYTES, ends_in_cr
from model.data.parquet_columns import ParquetColumns

_READ_BYTES = 2**20


class FilePart(NamedTuple):
    """A range of a file: bytes of text from the beginning of a line, or rows of Parquet."""

    start: int = 0
    stop: int | None = None
    """None for the file's end."""
    first_line: int = 1
    """Number of the line at ``start``, of text."""


WHOLE = FilePart()


class BlockSize(NamedTuple):
    """About how much of a file is one block."""

    text_bytes: int = 32 * 2**20
    json_bytes: int = 8 * 2**20
    """Values of a line of JSON take several times its bytes in memory."""
    rows: int = 2**17
    """Of Parquet."""

    @classmethod
    def of_memory(cls, mib: int) -> BlockSize:
        """Return the size of blocks for workers that have so much memory each."""
        share = mib / 1024
        return cls(*(max(1, int(each * share)) for each in cls()))


@dataclass(frozen=True, slots=True)
class FileContent:
    """Findings of a look at a file."""

    bytes: int
    sha256: str
    parts: tuple[FilePart, ...]
    """Its blocks, in the order of its rows; a file that cannot be cut is one."""


class Looked(NamedTuple):
    """A file to look at, and the size of its blocks."""

    path: Path
    size: BlockSize


def look(wanted: Looked) -> FileContent:
    """Read a file once, for its hash and its blocks.

    Raises:
        OSError: it cannot be read.
    """
    path, size = wanted
    if is_parquet(path):
        return FileContent(path.stat().st_size, sha256(path), tuple(_row_ranges(path, size.rows)))
    limit = size.json_bytes if is_json_lines(path) else size.text_bytes
    digest = hashlib.sha256()
    with path.open("rb") as file:
        whole = is_gzip(path) or ends_in_cr(file.read(FIRST_BYTES))
        file.seek(0)
        parts = list(_line_ranges(iter(lambda: file.read(_READ_BYTES), b""), limit, digest.update))
        found = file.tell()
    return FileContent(found, digest.hexdigest(), (WHOLE,) if whole else tuple(parts))


def chunks_of(opened: IO[bytes], at_once: int, part: FilePart) -> Iterator[list[bytes]]:
    """Yield the lines of a part of a text file, some megabytes at a time.

    ``opened`` stands at the first line, or behind the header, for the part at the beginning.
    """
    if part.start:
        opened.seek(part.start)
    if part.stop is not None:
        opened = io.BytesIO(opened.read(part.stop - opened.tell()))
    while chunk := opened.readlines(at_once):
        yield chunk


def _line_ranges(
    pieces: Iterable[bytes], limit: int, seen: Callable[[bytes], None]
) -> Iterator[FilePart]:
    """Cut text behind the first line end after each ``limit`` bytes; ``seen`` gets every piece."""
    start, first_line = 0, 1
    position, lines = 0, 0
    for piece in pieces:
        seen(piece)
        counted = 0
        while (found := piece.find(b"\n", max(0, start + limit - 1 - position))) >= 0:
            stop = position + found + 1
            lines += piece.count(b"\n", counted, found + 1)
            counted = found + 1
            yield FilePart(start, stop, first_line)
            start, first_line = stop, lines + 1
        lines += piece.count(b"\n", counted)
        position += len(piece)
    if position > start or start == 0:
        yield FilePart(start, None, first_line)


def _row_ranges(path: Path, limit: int) -> Iterator[FilePart]:
    try:
        rows = ParquetColumns.of(path).scan(path).select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError):
        # Whoever reads it tells what is wrong with it.
        rows = 0
    for start in range(0, max(1, rows), limit):
        yield FilePart(start, start + limit if start + limit < rows else None)
