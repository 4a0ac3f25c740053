"""Notes on files that were read: each is said once, after the last row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from app.features.canonical import SECONDS_TEXT
from app.features.spec import Categorical, Field, MultiCategorical, Time
from model.data.doubtful_moments import DoubtfulMoments
from model.data.json_lines import is_json

_OFFSET = re.compile(r"(?:[Zz]|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})*)\Z", re.ASCII)
_DATE_LENGTH = len("2014-10-21")
_HOURS = re.compile("%[HIXcT]")
"""The letters of a format with an hour; a date alone is the same day in any time zone."""


class ReadingNotes:
    """Collects what is worth a warning although every row is read."""

    def __init__(self) -> None:
        self.files_without_rows: list[str] = []
        self.hidden: list[str] = []
        """Names of files that were passed over because they begin with ``_`` or ``.``."""
        self._nan: Counter[str] = Counter()
        self._never: dict[str, bool] = {}
        """True if no line of JSON has a value of a column."""
        self._local: dict[str, str] = {}
        """Time zone of each field whose times have no offset."""
        self._moments_as_text: set[str] = set()
        self._doubtful: dict[str, DoubtfulMoments] = {}
        self._rows, self._clicks = [0, 0], [0, 0]
        """Rows with a label that were left out, and of the others; clicks among them."""

    def add_nan(self, counts: Mapping[str, int]) -> None:
        """Note each column's values that are NaN and count as missing."""
        self._nan.update(counts)

    def add_absent(self, frame: pl.DataFrame) -> None:
        """Note the columns of JSON lines, and whether they have a value: no header names them."""
        for column in frame:
            if is_json(column):
                empty = column.null_count() == frame.height
                self._never[column.name] = self._never.get(column.name, True) and empty

    def add_labels(self, label: NDArray[np.uint8], good: NDArray[np.bool_]) -> None:
        """Note the labels [R] of a frame's rows, and which of the rows are used."""
        for used, rows in enumerate((label[~good], label[good])):
            self._rows[used] += len(rows)
            self._clicks[used] += int(rows.sum())

    def add_times(self, field: Field, column: pl.Series, values: Sequence[Any]) -> None:
        """Note a field whose column holds times that may mean other times than it seems.

        ``values`` are the column's distinct values as JSON.
        """
        if isinstance(field, Categorical | MultiCategorical):
            dtype: Any = column.dtype
            inner = dtype.inner if isinstance(dtype, pl.List) else dtype
            if isinstance(inner, pl.Datetime) and field.dtype == "string":
                self._moments_as_text.add(field.name)
        elif (
            isinstance(field, Time)
            and field.timezone != "UTC"
            and field.name not in self._local
            and _any_local(field, values)
        ):
            self._local[field.name] = field.timezone

    def add_moments(self, column: Time, values: Sequence[Any], key: str = "format") -> None:
        """Note the distinct values of a time, whose format the spec's ``key`` gives."""
        self._doubtful.setdefault(column.name, DoubtfulMoments(column, key)).add(values)

    def state(self) -> dict[str, Any]:
        """Return the notes on rows, in a form that JSON can hold; those on files are left out."""
        return {
            "nan": self._nan,
            "never": self._never,
            "local": self._local,
            "moments_as_text": sorted(self._moments_as_text),
            "doubtful": [each.state() for each in self._doubtful.values()],
            "rows": self._rows,
            "clicks": self._clicks,
        }

    def merge(self, later: Mapping[str, Any]) -> None:
        """Add the :meth:`state` of notes on later rows."""
        self._nan.update(later["nan"])
        for name, never in later["never"].items():
            self._never[name] = self._never.get(name, True) and never
        for name, zone in later["local"].items():
            self._local.setdefault(name, zone)
        self._moments_as_text.update(later["moments_as_text"])
        for state in later["doubtful"]:
            name = state["column"]["name"]
            if name not in self._doubtful:
                self._doubtful[name] = DoubtfulMoments.of(state)
            self._doubtful[name].merge(state)
        for used in (0, 1):
            self._rows[used] += later["rows"][used]
            self._clicks[used] += later["clicks"][used]

    def lines(self) -> list[str]:
        """Return the warnings."""
        left_out, used = self._rows
        lines = []
        if left_out and used:
            lines.append(
                f"of the rows left out {left_out:,} have a label, and their click rate is"
                f" {self._clicks[0] / left_out:.4f}; that of the rest is"
                f" {self._clicks[1] / used:.4f}"
            )
        if self.files_without_rows:
            lines.append(f"files without a row: {', '.join(self.files_without_rows)}")
        if self.hidden:
            lines.append(
                f"files passed over, as their names begin with _ or .: {', '.join(self.hidden)}"
            )
        lines += [
            f"column {name!r}: {count:,} values are NaN and count as missing"
            for name, count in self._nan.items()
        ]
        lines += [
            f"no line of JSON has a value of the field {name!r}"
            for name, never in self._never.items()
            if never
        ]
        lines += [
            f"field {name!r}: times without an offset are read as local time of {zone}"
            for name, zone in self._local.items()
        ]
        lines += [
            f"field {name!r}: moments of Parquet become text such as 2014-10-21T13:00:00Z (without"
            " Z where the column has no time zone), and requests must write them so; a field of"
            ' kind = "time" takes any form'
            for name in sorted(self._moments_as_text)
        ]
        for doubtful in self._doubtful.values():
            lines += doubtful.lines()
        return lines


def _any_local(field: Time, values: Iterable[Any]) -> bool:
    """Tell whether any text is a time of day without an offset."""
    texts = (value for value in values if isinstance(value, str) and value)
    if field.format is not None:
        local = _HOURS.search(field.format) is not None and "%z" not in field.format
        return local and any(texts)
    return any(
        len(text) > _DATE_LENGTH and not SECONDS_TEXT.fullmatch(text) and not _OFFSET.search(text)
        for text in texts
    )
