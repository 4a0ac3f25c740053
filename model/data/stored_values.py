"""Values of items and users in files of their own → columns of logs that have only their ids.

The rules are those of serving: a log's own value wins, a null too; 7, ``"7"`` and ``7.0`` of an
integer field are one key; of several entries with one key the last one counts. A row whose item is
unknown cannot be used, a row whose user is unknown lacks the user's values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from msgspec.structs import replace
from numpy.typing import NDArray

from app.features.field_encoders import field_encoder
from app.features.keys import TextKey, text_key
from app.features.spec import FeatureSpec, Side
from app.files import sha256
from model.data.bad_lines import BadLines
from model.data.errors import AbsentColumns, DataError
from model.data.json_lines import is_json
from model.data.log_files import Source, pieces
from model.data.parquet_columns import without_nan
from model.data.stored_files import Kind, StoredFiles
from model.data.values import distinct, field_values, problems_of, unlearned
from model.data.wanted_columns import FILE, LINE

_SIDES: dict[Kind, Side] = {"item": "candidate", "profile": "context"}
_OPTIONS = {"item": ("--items", "--id"), "profile": ("--profiles", "--key")}
_KEY, _FOUND = "\0key", "\0found"
_encode = msgspec.json.Encoder().encode


def read_stored(spec: FeatureSpec, files: StoredFiles, max_bad_lines: float) -> StoredValues:
    """Read the values of items, or of users, into memory.

    Text files have a header, whatever ``columns`` the spec gives to logs.

    Raises:
        DataError: a file cannot be used, or the share of bad lines is too high.
    """
    shown, option = _OPTIONS[files.kind]
    side = _SIDES[files.kind]
    if any(field.name == files.key for field in spec.fields if field.side != side):
        raise DataError(f"{option}: {files.key!r} is not a field of the {side}'s side")
    reading = _Reading(replace(spec, columns=None), files)
    sources = [reading.read(path) for path in files.paths]
    bad = reading.bad
    if bad.count > max_bad_lines * bad.total:
        raise DataError(
            f"{shown}: {bad.report()}\n(--max-bad-lines allows {max_bad_lines:g} of the lines)"
        )
    entries = pl.concat(reading.frames, how="diagonal").unique(_KEY, keep="last")
    return StoredValues(files, entries, sources, reading.key, bad)


def absent_advice(spec: FeatureSpec, absent: AbsentColumns, stored: Sequence[StoredValues]) -> str:
    """Return where the absent columns of a log may come from; empty if nothing suggests it."""
    lines = []
    for kind, side in _SIDES.items():
        names = {field.name for field in spec.side(side) if not field.dynamic}
        lacking = names.intersection(absent.names)
        # One name alone may be written wrong, be the key itself, or a value of each request.
        likely = kind == "item" and len(names) > 1 and not absent.near
        alone = len(lacking) == 1 and not likely
        if not lacking or alone or any(each.files.kind == kind for each in stored):
            continue
        files, key = _OPTIONS[kind]
        whose = "items" if kind == "item" else "users"
        lines.append(
            f"{len(lacking):,} of {len(names):,} {side} fields are absent; values of {whose} can"
            f" come from files of their own: {files} FILE {key} FIELD"
        )
    return "\n".join(lines)


class _Reading:
    """Entries on their way from files to one frame: their keys, and their values as JSON."""

    def __init__(self, spec: FeatureSpec, files: StoredFiles) -> None:
        self.key = text_key(spec, files.key)
        self.bad = BadLines()
        self._spec, self._files = spec, files
        vocabulary = unlearned(spec)
        # A dynamic field's value is one of the moment: only the log has it.
        fields = (field for field in spec.side(_SIDES[files.kind]) if not field.dynamic)
        self._encoders = {field.name: (field, field_encoder(field, vocabulary)) for field in fields}
        schema = {_KEY: pl.String(), **dict.fromkeys(self._encoders, pl.Binary())}
        self.frames = [pl.DataFrame(schema=schema)]

    def read(self, path: Path) -> Source:
        """Add the good lines of a file."""
        key, rows = self._files.key, 0
        wanted = list(dict.fromkeys([key, *self._encoders]))
        optional = [name for name in wanted if name != key]
        for piece in pieces(self._spec, path, wanted, self.bad, optional=optional, key=key):
            rows += piece.frame.height
            self._add(without_nan(piece.frame)[0])
        return Source(path.name, sha256(path), path.stat().st_size, rows)

    def _add(self, frame: pl.DataFrame) -> None:
        keys = row_keys(frame[self._files.key], self.key).alias(_KEY)
        told = f"field {self._files.key!r}: expected the {self._files.kind}'s id"
        problems = dict.fromkeys(np.flatnonzero(keys.is_null()).tolist(), told)
        columns = [keys]
        for name in self._encoders:
            if name in frame.columns:
                columns.append(self._as_json(frame[name], problems))
        origins = frame.select(FILE, LINE)
        for row in sorted(problems):
            file, line = origins.row(row)
            self.bad.add(file, line, problems[row])
        good = np.ones(frame.height, bool)
        good[list(problems)] = False
        self.frames.append(pl.DataFrame(columns).filter(pl.Series(good)))

    def _as_json(self, column: pl.Series, problems: dict[int, str]) -> pl.Series:
        """Return a field's values as JSON; note the problem of each row whose value has one."""
        field, encoder = self._encoders[column.name]
        values, codes = field_values(field, column)
        # A log may have what is absent here, even if it is required.
        there = [place for place, value in enumerate(values) if value is not None]
        found = problems_of(encoder, [values[place] for place in there])
        wrong = {there[place]: problem for place, problem in found.items()}
        for row in np.flatnonzero(np.isin(codes, list(wrong))).tolist():
            problems.setdefault(row, f"field {column.name!r}: {wrong[codes[row]]}")
        if is_json(column):
            return column
        texts = [None if value is None else _encode(value) for value in values]
        return pl.Series(column.name, texts, pl.Binary).gather(codes)


def row_keys(column: pl.Series, key: TextKey) -> pl.Series:
    """Return the text of each row's key, None where it has none."""
    values, codes = distinct(column)
    return pl.Series([key(value) for value in values], dtype=pl.String).gather(codes)


@dataclass(slots=True)
class StoredValues:
    """The values of items, or of users, by key; ``unknown`` counts rows without an entry."""

    files: StoredFiles
    entries: pl.DataFrame
    """The key, and for each field its value as JSON, None where it is absent."""
    sources: Sequence[Source]
    key: TextKey
    bad: BadLines
    """Lines of the files that are left out, and the number of all."""
    rows: int = 0
    unknown: int = 0

    def each(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield the key of each entry and the values that it has, as JSON, by field."""
        for key, *values in self.entries.iter_rows():
            named = zip(self.entries.columns[1:], values, strict=True)
            yield key, {name: value for name, value in named if value is not None}

    def optional(self) -> set[str]:
        """Return the columns that a log may lack."""
        return {name for name in self.entries.columns if name not in (_KEY, self.files.key)}

    def join(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, NDArray[np.bool_]]:
        """Return the rows with the values that they lack, and which of them have an entry."""
        keys = row_keys(frame[self.files.key], self.key).alias(_KEY)
        entries = self.entries.with_columns(pl.lit(True).alias(_FOUND))
        found = keys.to_frame().join(entries, on=_KEY, how="left", maintain_order="left")
        columns = []
        for name in self.optional():
            stored = found[name]
            if name not in frame.columns:
                columns.append(stored)
            elif is_json(own := frame[name]):
                columns.append(own.zip_with(own.is_not_null(), stored))
        known = found[_FOUND].fill_null(False).to_numpy()
        self.rows += frame.height
        self.unknown += int(np.count_nonzero(~known))
        return frame.with_columns(columns), known

    def lines(self) -> list[str]:
        """Return the warnings."""
        if self.files.kind == "item" or not self.unknown:
            return []
        return [f"{self.unknown:,} of {self.rows:,} rows have no profile: its fields are missing"]
