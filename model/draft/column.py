"""One column of a sample → what its values are: whole numbers, numbers, times, lists or text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from app.errors import ValueProblem
from app.features.canonical import (
    INTEGER_TEXT,
    NUMBER_TEXT,
    integer_key,
    number_key,
    seconds,
)
from app.features.spec import Time
from model.data.json_lines import is_json
from model.data.moments import as_json, is_moment
from model.data.null_texts import NULL_TEXTS
from model.data.values import distinct

Content = Literal["nothing", "integer", "number", "boolean", "text", "list", "moment", "mixed"]
NOT_TEXT = 0.01
"""Share of rows below which a text among numbers is no sign that the column is text, but a null."""


@dataclass(frozen=True, slots=True)
class ListText:
    """Text that is split into values."""

    separator: str
    tokens: tuple[str, ...]
    """The distinct values of all lists."""
    longest: int


class Column:
    """The distinct values of a column [V], the place of each row's value [R], and counts.

    Values are those of JSON; of a text file all are text. Absent ones and empty text are missing.
    """

    def __init__(self, series: pl.Series) -> None:
        self.name = series.name
        self.rows = len(series)
        self.text_file = series.dtype == pl.String
        self.typed = not self.text_file and not is_json(series)
        self.moment = is_moment(series.dtype)
        values, codes = distinct(as_json(_ANY_TIME, series) if self.moment else series)
        self.values: list[Any] = values
        self.codes: NDArray[np.int64] = codes
        self.counts = np.bincount(codes, minlength=len(values))

    @cached_property
    def empty(self) -> frozenset[int]:
        """The places of values that are missing."""
        return frozenset(
            place for place, value in enumerate(self.values) if value is None or value == ""
        )

    @cached_property
    def null_texts(self) -> dict[str, int]:
        """Texts that usually stand for a missing value, and the rows of each."""
        return {
            value: int(self.counts[place])
            for place, value in enumerate(self.values)
            if isinstance(value, str) and value in NULL_TEXTS
        }

    @cached_property
    def present(self) -> list[int]:
        """The places of the values that are there, null texts among them."""
        return [place for place in range(len(self.values)) if place not in self.empty]

    @cached_property
    def missing(self) -> int:
        """Rows without a value."""
        return int(sum(self.counts[place] for place in self.empty))

    def without(self, texts: Iterable[str]) -> list[Any]:
        """Return the distinct values that are there, but for some texts."""
        out = frozenset(texts)
        values = (self.values[place] for place in self.present)
        return [value for value in values if not (isinstance(value, str) and value in out)]

    @cached_property
    def content(self) -> tuple[Content, frozenset[str]]:
        """Kind of the values, and the null texts that must be left out for that."""
        plain = self.without(())
        if not plain:
            return "nothing", frozenset()
        if self.moment:
            return "moment", frozenset()
        whole = _content(plain, self.text_file)
        if whole == "text" and self.null_texts:
            # "NA" among numbers is no value; among texts it may be Namibia.
            others = self.without(self.null_texts)
            if others and (found := _content(others, self.text_file)) not in ("text", "mixed"):
                return found, frozenset(self.null_texts)
        return whole, frozenset()

    def numbers(self, texts: Iterable[str] = ()) -> NDArray[np.float64]:
        """Return the number of each distinct value [V], NaN where it is none."""
        out = frozenset(texts)
        found = np.full(len(self.values), np.nan)
        for place in self.present:
            value = self.values[place]
            if isinstance(value, str) and (value in out or not NUMBER_TEXT.fullmatch(value)):
                continue
            if not isinstance(value, list | dict):
                found[place] = float(value)
        return found

    def most_frequent(self, most: int) -> list[tuple[Any, int]]:
        """Return the values that are there by falling count, with their rows."""
        places = sorted(self.present, key=lambda place: -int(self.counts[place]))
        return [(self.values[place], int(self.counts[place])) for place in places[:most]]


_CODE = re.compile("-?0[0-9]")
_ANY_TIME = Time(name="time", side="context", parts=("hour",))
UTC = ZoneInfo("UTC")


def _content(values: Sequence[Any], text_file: bool) -> Content:
    """Return what all the values are."""
    kinds = {type(value) for value in values}
    if kinds == {list}:
        return "list"
    if kinds == {bool}:
        return "boolean"
    if kinds == {str}:
        return _of_text(values, text_file)
    if kinds <= {int, float}:
        if _all(integer_key, values):
            return "integer"
        return "number" if _all(number_key, values) else "mixed"
    if kinds <= {int, str}:
        return "integer" if _all(integer_key, values) else "text"
    return "mixed"


def _of_text(values: Sequence[str], text_file: bool) -> Content:
    if {value.lower() for value in values} <= {"true", "false"}:
        return "boolean"
    if all(INTEGER_TEXT.fullmatch(value) for value in values) and _all(integer_key, values):
        return "integer"
    # A number in quotes is text in JSON, and numeric fields refuse it there.
    if text_file and all(map(_is_number, values)) and _all(number_key, values):
        return "number"
    return "text"


def _is_number(text: str) -> bool:
    """Tell whether text is a number that a code, such as ``00501``, would not be."""
    return bool(NUMBER_TEXT.fullmatch(text)) and not _CODE.match(text)


def _all(rule: Callable[[Any], Any], values: Sequence[Any]) -> bool:
    try:
        for value in values:
            rule(value)
    except ValueProblem:
        return False
    return True


def moments(values: Sequence[Any], text_format: str | None) -> NDArray[np.int64] | None:
    """Return the seconds since 1970 of all values, None if one is not a moment."""
    try:
        return np.array([seconds(value, UTC, text_format) for value in values], np.int64)
    except ValueProblem:
        return None
