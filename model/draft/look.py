"""Files → a look at them: the rows of a sample, with every column that a field could be.

The files are read to their end, a bounded piece at a time. Where they have more rows than the
sample, it has the beginning of each piece: blocks of neighbours, so that rows of one request stay
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import polars as pl
from msgspec.structs import replace
from polars import selectors as cs

from app.features.spec import FeatureSpec
from model.data.bad_lines import BadLines
from model.data.errors import DataError
from model.data.file_kinds import DELIMITERS, ending_of_text, is_json_lines, is_parquet
from model.data.log_files import column_names, distinct_names, pieces, visible
from model.data.parquet_columns import ParquetColumns, without_nan
from model.data.wanted_columns import FILE, LINE, LogFile
from model.progress import progress_bar

SAMPLE_ROWS = 300_000
"""Rows of a sample: forty columns of text take some 300 MB."""
OTHER_DELIMITERS = (";", "\t", "|", ",")
"""Tried in this order where the one that the file's ending suggests finds a single column."""


@dataclass(frozen=True, slots=True)
class Items:
    """Files with the values of items that were joined to the rows of a log."""

    names: tuple[str, ...]
    """The names of the files."""
    key: str
    """The column with an item's id."""
    columns: frozenset[str]
    """The columns that the log does not have."""
    unknown: int
    """Rows of the sample that were left out: their item is in no file."""
    bad: BadLines


@dataclass(slots=True)
class Look:
    """A sample of the rows of files, and what was noticed on the way."""

    names: tuple[str, ...]
    """The names of the files."""
    layout: FeatureSpec
    """A spec without fields: how the files are read."""
    frame: pl.DataFrame
    """The sample's rows, with ``FILE`` and ``LINE``; columns of text files hold text."""
    columns: tuple[str, ...]
    """The columns that a field, or the label, could be."""
    rows: int
    """Rows that the files have."""
    bad: BadLines
    unusable: dict[str, str] = field(default_factory=dict)
    """Columns that no field can be, each with the reason."""
    items: Items | None = None
    """The files of items, where the log has ids alone."""

    @property
    def whole(self) -> bool:
        """Tell whether the sample is all rows."""
        return self.frame.height + (self.items.unknown if self.items else 0) == self.rows


def look_at(
    paths: Sequence[Path],
    label: str,
    columns: Sequence[str] | None = None,
    sample_rows: int = SAMPLE_ROWS,
    progress: bool = True,
    key: str | None = None,
) -> Look:
    """Read files; ``columns`` names the columns of files without a header.

    With ``key``, lines of JSON may be entries of a store, whose id is the value of that column.

    Raises:
        DataError: a file cannot be read, the columns of two files differ, or there are no rows.
    """
    shown = visible(paths)
    if not shown:
        raise DataError("no data files given")
    files = [*map(LogFile, shown, distinct_names(shown))]
    layout = FeatureSpec(label=label, fields=(), columns=tuple(columns) if columns else None)
    layout = _with_delimiter(layout, files[0])
    present = _columns_of(layout, files, key)
    unusable = _unusable(files[0], present)
    wanted = [name for name in dict.fromkeys(present) if name not in unusable]
    names = tuple(name for _, name in files)
    look = Look(names, layout, pl.DataFrame(), tuple(wanted), 0, BadLines(), unusable)
    kept = list(_sampled(look, files, wanted, sample_rows, progress, key))
    if not kept:
        raise DataError(f"there are no rows in {', '.join(look.names)}")
    look.frame = pl.concat(kept, how="vertical_relaxed")
    look.frame = look.frame.select(cs.by_name(*wanted, FILE, LINE))
    return look


def _columns_of(layout: FeatureSpec, files: Sequence[LogFile], key: str | None) -> list[str]:
    """Return the names of the first file's columns that has any."""
    for file in files:
        if names := column_names(layout, file, key):
            return names
    raise DataError(f"there are no rows in {', '.join(name for _, name in files)}")


def _with_delimiter(layout: FeatureSpec, file: LogFile) -> FeatureSpec:
    """Give the delimiter that splits a text file's first line, if its ending suggests another."""
    if is_parquet(file.path) or is_json_lines(file.path):
        return layout
    suggested = DELIMITERS.get(ending_of_text(file.path))
    unnamed = replace(layout, columns=None)
    if suggested and len(column_names(unnamed, file) or ()) > 1:
        return layout
    for delimiter in OTHER_DELIMITERS:
        found = replace(unnamed, delimiter=delimiter)
        if len(column_names(found, file) or ()) > 1:
            return replace(layout, delimiter=delimiter)
    return layout


def _unusable(file: LogFile, present: Sequence[str]) -> dict[str, str]:
    """Return why columns cannot be fields, for those that cannot."""
    found = dict.fromkeys(present, "its name is in the header more than once")
    found = {name: why for name, why in found.items() if present.count(name) > 1}
    for place, name in enumerate(present, 1):
        if not name:
            before = f"{found[name]}, and " if "no name" in found.get(name, "") else ""
            found[name] = f"{before}column {place} has no name"
        elif "\0" in name:
            found[name] = "its name has the character NUL"
    if is_parquet(file.path):
        found |= {
            name: f"no field can be of its type, {dtype}"
            for name, dtype in ParquetColumns.of(file.path).unreadable().items()
        }
    return found


def _sampled(
    look: Look,
    files: Sequence[LogFile],
    wanted: Sequence[str],
    sample_rows: int,
    progress: bool,
    key: str | None,
) -> Iterator[pl.DataFrame]:
    """Yield the sample's part of each piece; count the rows of all."""
    total = sum(path.stat().st_size for path, _ in files)
    share = 0.0
    with progress_bar("looking", total, "bytes", progress) as shown:
        for path, name in files:
            before = shown.n
            optional = wanted if is_json_lines(path) else ()
            for piece in pieces(
                look.layout, path, wanted, look.bad, name=name, optional=optional, key=key
            ):
                look.rows += piece.frame.height
                if not share:
                    rows = piece.frame.height * total / max(1, piece.bytes)
                    share = min(1.0, sample_rows / rows)
                frame, _ = without_nan(piece.frame)
                yield frame.head(ceil(share * frame.height))
                shown.update(before + piece.bytes - shown.n)
