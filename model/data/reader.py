"""Click logs in files → frames of good rows of raw values, checked line by line.

A value of a file becomes the value that JSON would hold for it; from there on training uses the
same encoder as serving. Work on values is done once for each distinct value of a frame, and only
one frame is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from msgspec.structs import replace
from numpy.typing import NDArray
from polars import selectors as cs

from app.errors import ValueProblem
from app.features.canonical import boolean_key, integer_key, seconds
from app.features.field_encoders import field_encoder
from app.features.spec import FeatureSpec, Field, Time
from app.files import sha256
from model.data.bad_lines import BadLines
from model.data.doubtful_moments import date_formats, date_hint
from model.data.errors import AbsentColumns, DataError
from model.data.file_blocks import WHOLE, FilePart
from model.data.log_files import Piece, Source, distinct_names, pieces, require_columns, visible
from model.data.moments import is_moment
from model.data.null_texts import null_hint
from model.data.parquet_columns import without_nan
from model.data.reading_notes import ReadingNotes
from model.data.row_weights import weight_problems
from model.data.stored_values import StoredValues, absent_advice
from model.data.values import distinct, field_values, problems_of, unlearned
from model.data.wanted_columns import FILE, KEPT, LINE, LogFile
from model.progress import progress_bar

MOMENT = "\0moment"
LEFT_OUT = "left out: "
"""Beginning of the warning of lines that cannot be used."""


class Reader:
    """Reads files a frame at a time; bad lines are left out, counted and named.

    A frame has the spec's columns, ``FILE`` and ``LINE``, with ``label`` the label, and with
    ``moment`` the seconds of the spec's timestamp, as ``MOMENT``. The columns ``keep`` are in it
    a second time, as they are in the file, under their names after ``KEPT``. What the files lack
    comes from the ``stored`` values.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        paths: Sequence[Path],
        max_bad_lines: float = 0.0,
        label: bool = True,
        moment: bool = False,
        progress: bool = False,
        keep: Sequence[str] = (),
        stored: Sequence[StoredValues] = (),
    ) -> None:
        shown = visible(paths)
        if not shown:
            hidden = ", ".join(path.name for path in paths)
            raise DataError(
                "no data files given"
                + (f": names that begin with _ or . are passed over ({hidden})" if hidden else "")
            )
        self.bad = BadLines()
        self.notes = ReadingNotes()
        self.sources: list[Source] = []
        """Of the files that were read to their end."""
        self._spec, self._paths, self._max_bad_lines = spec, shown, max_bad_lines
        self.files = [*map(LogFile, shown, distinct_names(shown))]
        self.notes.hidden = [path.name for path in paths if path not in shown]
        self._label, self._moment, self._progress, self._keep = label, moment, progress, keep
        # Each reader counts its own rows.
        self.stored = [copy(each) for each in stored]
        vocabulary = unlearned(spec)
        self._fields = [(field, field_encoder(field, vocabulary)) for field in spec.fields]

    @property
    def warnings(self) -> list[str]:
        """The warnings after the last frame."""
        left_out = [f"{LEFT_OUT}{self.bad.report()}"] if self.bad.count else []
        joined = [line for each in self.stored for line in each.lines()]
        return left_out + joined + self.notes.lines()

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield the good rows of all files in their order; no frame is empty.

        Raises:
            DataError: a file cannot be read, a column is absent, a label is neither 0 nor 1, a
                wanted time is not a time, or, at the end, the share of bad lines is above
                ``max_bad_lines`` or no row is left.
        """
        self.require_columns()
        used = 0
        total = sum(path.stat().st_size for path in self._paths)
        with progress_bar("reading", total, "bytes", self._progress) as shown:
            for file in self.files:
                rows, before = 0, shown.n
                for frame, piece in self.part(file):
                    rows += piece.frame.height
                    used += frame.height
                    if frame.height:
                        yield frame
                    shown.update(before + piece.bytes - shown.n)
                size = file.path.stat().st_size
                self.note_file(file, Source(file.path.name, sha256(file.path), size, rows))
        self.require_rows(used)

    def part(self, file: LogFile, part: FilePart = WHOLE) -> Iterator[tuple[pl.DataFrame, Piece]]:
        """Yield the good rows of a file, or of a part of it, beside the rows as they were read.

        Raises:
            DataError: as :meth:`frames` does for its rows.
        """
        spec, wanted, optional = self._spec, self._wanted(), self._optional()
        found = pieces(
            spec, file.path, wanted, self.bad, self._keep, file.name, optional, part=part
        )
        for piece in found:
            frame, nan = without_nan(piece.frame)
            self.notes.add_nan(nan)
            if self._label:
                check_labels(spec, frame)
            good = self._good_rows(*self._joined(frame))
            if self._moment:
                good = good.with_columns(
                    pl.Series(MOMENT, _moments(spec, good, self.notes), pl.Int64)
                )
            yield good, piece

    def note_file(self, file: LogFile, source: Source) -> None:
        """Note a file whose rows have all been read."""
        if not source.rows:
            self.notes.files_without_rows.append(file.name)
        self.sources.append(source)

    def require_rows(self, used: int) -> None:
        """Check, after the last row, that enough of the lines could be used.

        Raises:
            DataError: as :meth:`frames` does at the end.
        """
        self.sources += [source for each in self.stored for source in each.sources]
        bad = self.bad
        if bad.count > self._max_bad_lines * bad.total:
            raise DataError(
                f"{bad.report()}\n(--max-bad-lines allows {self._max_bad_lines:g} of the lines)"
            )
        if not used:
            if bad.total == 0:
                raise DataError(
                    f"there are no rows in {', '.join(path.name for path in self._paths)}"
                )
            raise DataError(f"the data has no usable row\n{bad.report()}")

    def require_columns(self, joins: bool = False) -> None:
        """Check that all files are there and have the columns, before the first row is read.

        ``joins`` tells that the caller's command takes files with the values of items and users.

        Raises:
            DataError: one is not, or lacks one.
        """
        try:
            require_columns(self._spec, self.files, self._wanted(), self._keep, self._optional())
        except AbsentColumns as error:
            if not joins or not (advice := absent_advice(self._spec, error, self.stored)):
                raise
            raise DataError(f"{error}\n{advice}") from error

    def _columns(self) -> list[str]:
        """Return the columns that a frame has of the spec."""
        spec = self._spec
        wanted = [field.name for field in spec.fields]
        wanted += [spec.label] if self._label else []
        wanted += [spec.weight] if self._label and spec.weight is not None else []
        if self._moment and spec.timestamp is not None and spec.timestamp not in wanted:
            wanted.append(spec.timestamp)
        return wanted

    def _wanted(self) -> list[str]:
        """Return the columns that are read."""
        keys = (each.files.key for each in self.stored)
        return list(dict.fromkeys([*self._columns(), *keys]))

    def _optional(self) -> set[str]:
        """Return the columns that the files may lack, as they are stored elsewhere."""
        spec = self._spec
        needed = {spec.label, spec.timestamp, spec.weight} | {
            each.files.key for each in self.stored
        }
        return {name for each in self.stored for name in each.optional()} - needed

    def _joined(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, NDArray[np.bool_]]:
        """Return a frame with stored values, and the rows whose item is known."""
        good = np.ones(frame.height, bool)
        if not self.stored:
            self.notes.add_absent(frame)
            return frame, good
        for each in self.stored:
            frame, known = each.join(frame)
            if each.files.kind == "item":
                good &= known
                for file, line in frame.filter(pl.Series(~known)).select(FILE, LINE).iter_rows():
                    self.bad.add(file, line, f"field {each.files.key!r}: --items has no such item")
        self.notes.add_absent(frame)
        columns = {*self._columns(), FILE, LINE}
        return frame.select(cs.by_name(*columns) | cs.starts_with(KEPT)), good

    def _good_rows(self, frame: pl.DataFrame, good: NDArray[np.bool_]) -> pl.DataFrame:
        """Note and leave out every row with a value that breaks its field's rules."""
        for spec_field, encoder in self._fields:
            column = frame[spec_field.name]
            values, codes = field_values(spec_field, column)
            self.notes.add_times(spec_field, column, values)
            if isinstance(spec_field, Time):
                self.notes.add_moments(spec_field, values)
            problems = problems_of(encoder, values)
            if not problems:
                continue
            rows = np.flatnonzero(np.isin(codes, list(problems)) & good)
            good[rows] = False
            origins = frame[rows.tolist()].select(FILE, LINE).iter_rows()
            for (file, line), code in zip(origins, codes[rows].tolist(), strict=True):
                hint = null_hint(values[code]) or _date_hint(spec_field, values[code])
                self.bad.add(file, line, f"field {spec_field.name!r}: {problems[code]}{hint}")
        if self._label and self._spec.weight is not None:
            self._check_weights(frame, good)
        if self._label:
            self.notes.add_labels(labels(self._spec, frame), good)
        return frame if good.all() else frame.filter(pl.Series(good))

    def _check_weights(self, frame: pl.DataFrame, good: NDArray[np.bool_]) -> None:
        """Note every row whose weight is none."""
        problems, codes = weight_problems(self._spec, frame)
        rows = np.flatnonzero(np.isin(codes, list(problems)) & good)
        good[rows] = False
        origins = frame[rows.tolist()].select(FILE, LINE).iter_rows()
        for (file, line), code in zip(origins, codes[rows].tolist(), strict=True):
            self.bad.add(file, line, f"weight {self._spec.weight!r}: {problems[code]}")


def labels(spec: FeatureSpec, frame: pl.DataFrame) -> NDArray[np.uint8]:
    """Return a frame's labels [R]; its :class:`Reader` has checked that each is 0 or 1."""
    values, codes = distinct(frame[spec.label])
    return np.array([int(_label(value)) for value in values], np.uint8)[codes]


def _label(value: Any) -> bool:
    if isinstance(value, bool) or (isinstance(value, str) and value.isalpha()):
        return boolean_key(value) == "true"
    key = integer_key(value)
    if key not in (0, 1):
        raise ValueProblem("it is neither 0 nor 1")
    return bool(key)


def check_labels(spec: FeatureSpec, frame: pl.DataFrame) -> None:
    """Check that each label of a frame is 0 or 1.

    Raises:
        DataError: one is not; the message names its file and line.
    """
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


def _date_hint(column: Field, value: Any, key: str = "format") -> str:
    plain = isinstance(column, Time) and column.format is None
    return date_hint(key, date_formats(value)) if plain else ""


def _moments(spec: FeatureSpec, frame: pl.DataFrame, notes: ReadingNotes) -> NDArray[np.int64]:
    """Return the seconds [R] of the spec's timestamp."""
    if spec.timestamp is None:
        raise DataError("the spec has no `timestamp` to split along")
    like: Time = next(
        (f for f in spec.fields if isinstance(f, Time) and f.name == spec.timestamp),
        Time(name=spec.timestamp, side="context", parts=("hour",), format=spec.timestamp_format),
    )
    column = frame[spec.timestamp]
    listed = like in spec.fields
    if is_moment(column.dtype):
        # A format is for text, and may leave out hours or minutes.
        like = replace(like, format=None)
    values, codes = field_values(like, column)
    key = "format" if listed else "timestamp_format"
    if not listed:
        notes.add_moments(like, values, key)
    zone = ZoneInfo(like.timezone)
    moments = np.zeros(len(values), np.int64)
    for code, value in enumerate(values):
        try:
            moments[code] = seconds(value, zone, like.format)
        except ValueProblem as problem:
            where = frame.row(int(np.argmax(codes == code)), named=True)
            raise DataError(
                f"{where[FILE]}:{where[LINE]}: timestamp {spec.timestamp!r}: {problem.problem}"
                f"{_date_hint(like, value, key)}"
            ) from None
    return moments[codes]
