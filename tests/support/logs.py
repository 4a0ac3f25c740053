"""Generated logs: rows of a generated spec as JSON, as a CSV file and as a Parquet table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any

import msgspec
import numpy as np
import polars as pl
from hypothesis import strategies as st

from app.features.spec import Categorical, FeatureSpec, Field, MultiCategorical, Numeric, Side, Time
from tests.support.encoding import SIDES

RESERVED_LOOKALIKES = ["NA", "[PAD]", "null", "__OOV__", "None", "nan", "0", "1", "-1", "\x00"]
"""Texts that other systems reserve."""


@dataclass(frozen=True)
class Thing:
    """One value as JSON, as the cell of a text file, and as a typed Parquet column holds it."""

    json: Any
    cell: str | None
    parquet: Any


MISSING = Thing(None, None, None)


@dataclass(frozen=True)
class Log:
    """Generated rows of a generated spec, and the Parquet type of each column."""

    spec: FeatureSpec
    columns: dict[str, list[Thing]]
    types: dict[str, Any]

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))

    def row(self, number: int) -> dict[str, Any]:
        """The row as a caller sends it; its missing values are absent or null."""
        values = {name: things[number].json for name, things in self.columns.items()}
        return {
            name: value
            for place, (name, value) in enumerate(values.items())
            if value is not None or (place + number) % 2
        }

    def csv(self) -> bytes:
        """A comma-separated file of the rows."""
        lines = [[*map(quote, self.columns), "click"]]
        for number in range(self.rows):
            lines.append([*(quote(t[number].cell) for t in self.columns.values()), "1"])
        return "".join(",".join(line) + "\n" for line in lines).encode()

    def parquet(self) -> pl.DataFrame:
        """A typed table of the rows."""
        series = [
            pl.Series(name, [thing.parquet for thing in things], self.types[name])
            for name, things in self.columns.items()
        ]
        return pl.DataFrame([*series, pl.Series("click", [1] * self.rows, pl.Int8)])


def quote(cell: str | None) -> str:
    """Quote a cell where it must be; no cell at all is missing."""
    if cell is None:
        return ""
    if cell == "" or set(cell) & set(',"\r'):
        return '"' + cell.replace('"', '""') + '"'
    return cell


Things = st.SearchStrategy[Thing]
# Strategies are made once: to make and to look through one takes longer than to draw from it.
TEXTS = st.sampled_from(["a", "b", 'q"', '"', "x,y", "é", "e\u0301", " a", *RESERVED_LOOKALIKES])
TEXTS |= st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n|;"), max_size=6)
TEXT_THINGS = TEXTS.map(lambda text: Thing(text, text, text))
INT_TYPES = {
    pl.Int64: st.integers(-2, 4) | st.integers(-(2**63), 2**63 - 1),
    pl.UInt64: st.integers(0, 4) | st.integers(0, 2**64 - 1),
    pl.Float64: st.integers(-2, 4) | st.integers(-(2**53) + 1, 2**53 - 1),
}
PLAIN_INTEGERS = INT_TYPES[pl.Int64].map(lambda value: Thing(value, str(value), value))
FORMS_OF_INTEGER = st.integers(0, 3)
FORMS_BELOW_2_53 = st.integers(0, 5)
NUMBER_TYPES = st.sampled_from(list(INT_TYPES))
LIST_TYPES = st.sampled_from([pl.Int64, pl.UInt64])
TEXT_TYPES = st.sampled_from([pl.String, pl.Categorical, pl.Int64])
DTYPES = st.sampled_from(["integer", "string", "boolean"])
MIN_COUNTS = st.integers(1, 2)
BOOLEAN_THINGS = st.builds(
    lambda value, case, cased: Thing(case(value) if cased else value, case(value), value),
    st.booleans(),
    st.sampled_from([str, lambda v: str(v).lower(), lambda v: str(v).upper()]),
    st.booleans(),
)


@st.composite
def _integer_things(draw: st.DrawFn, kind: Any) -> Thing:
    value = draw(INT_TYPES[kind])
    texts = [str(value), f"{value}.0", f"{value}."]
    numbers: list[Any] = [value]
    forms = FORMS_OF_INTEGER
    if abs(value) < 2**53:
        numbers.append(float(value))
        texts.append(f"{value:.15e}")
        forms = FORMS_BELOW_2_53
    return Thing((numbers + texts)[draw(forms)], texts[draw(forms) % len(texts)], value)


INTEGER_THINGS: dict[Any, Things] = {kind: _integer_things(kind) for kind in INT_TYPES}


@st.composite
def categorical(draw: st.DrawFn, name: str, side: Side) -> tuple[Field, Things, Any]:
    field = Categorical(
        name=name, side=side, dtype=draw(DTYPES),
        min_count=draw(MIN_COUNTS), empty_is_missing=draw(st.booleans()),
    )  # fmt: skip
    if field.dtype == "boolean":
        return field, BOOLEAN_THINGS, pl.Boolean
    if field.dtype == "integer":
        kind = draw(NUMBER_TYPES)
        return field, INTEGER_THINGS[kind], kind
    kind = draw(TEXT_TYPES)
    return field, PLAIN_INTEGERS if kind == pl.Int64 else TEXT_THINGS, kind


MAX_VALUES = st.integers(1, 3)
SEPARATORS = st.sampled_from(["|", ";;"])


@st.composite
def multi_categorical(draw: st.DrawFn, name: str, side: Side) -> tuple[Field, Things, Any]:
    field = MultiCategorical(
        name=name, side=side, dtype=draw(DTYPES), min_count=draw(MIN_COUNTS),
        max_values=draw(MAX_VALUES), separator=draw(SEPARATORS),
    )  # fmt: skip
    kind: Any = pl.Boolean if field.dtype == "boolean" else pl.String
    items = BOOLEAN_THINGS if field.dtype == "boolean" else TEXT_THINGS
    if field.dtype == "integer":
        kind = draw(LIST_TYPES)
        items = INTEGER_THINGS[kind]
    return field, lists_of(items, field.separator), pl.List(kind)


@cache
def lists_of(items: Things, separator: str) -> Things:
    """Up to five things in one cell."""

    def together(things: Sequence[Thing]) -> Thing:
        cell = separator.join(str(thing.cell) for thing in things) or separator
        return Thing([t.json for t in things], cell, [t.parquet for t in things])

    return st.lists(items, max_size=5).map(together)


EDGES = (-1.5, 0.0, 0.1, 7.0)
ENCODINGS = st.sampled_from(["quantile", "log_squared", "edges", "scaled"])
BUCKETS = st.integers(2, 9)
NUMERIC_TYPES = st.sampled_from([pl.Float64, pl.Float32, pl.Int64])


@st.composite
def numeric(draw: st.DrawFn, name: str, side: Side) -> tuple[Field, Things, Any]:
    encoding = draw(ENCODINGS)
    field = Numeric(
        name=name, side=side, encoding=encoding, buckets=draw(BUCKETS),
        min_count=draw(MIN_COUNTS), edges=EDGES if encoding == "edges" else (),
    )  # fmt: skip
    kind = draw(NUMERIC_TYPES)
    return field, PLAIN_INTEGERS if kind == pl.Int64 else FLOAT_THINGS[kind], kind


def oracle_text(value: float) -> str:
    """A number without the zeros beside its point, as Oracle writes it."""
    return re.sub(r"^(-?)0(\.[0-9]*[1-9])|(\.)0$", r"\1\2\3", repr(value))


FORMS_OF_FLOAT = st.sampled_from([repr, "{:.17e}".format, oracle_text])
FLOAT_THINGS: dict[Any, Things] = {
    kind: st.builds(
        lambda value, form: Thing(value, form(value), value),
        st.sampled_from([-1.5, -0.0, 0.0, 0.5, 2.0, 7.0])
        | st.floats(-100, 100, width=width)
        | st.floats(-float(2**127), float(2**127), width=width),
        FORMS_OF_FLOAT,
    )
    for kind, width in ((pl.Float32, 32), (pl.Float64, 64))
}
TIME_FORMATS = st.sampled_from([None, None, "%y%m%d%H", "%d/%b/%Y:%H:%M:%S %z"])
TIME_ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"])
TIME_TYPES = st.sampled_from([pl.Datetime("us"), pl.Datetime("ms")])
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1)) | st.sampled_from(
    [datetime(2024, 3, 31, 2, 30), datetime(2024, 10, 27, 2, 30), datetime(2024, 5, 5)]
)
MOMENT_THINGS = MOMENTS.map(lambda m: Thing(m.isoformat(), m.isoformat(" "), m))
SECONDS_THINGS = st.integers(-(2**31), 2**31).map(lambda v: Thing(v, str(v), v))
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))


@cache
def moments_as(text_format: str) -> Things:
    """Moments in texts of a format."""
    texts = st.builds(
        lambda moment, offset: moment.replace(tzinfo=offset).strftime(text_format),
        MOMENTS,
        OFFSETS,
    )
    return texts.map(lambda text: Thing(text, text, text))


@st.composite
def time(draw: st.DrawFn, name: str, side: Side) -> tuple[Field, Things, Any]:
    text_format = draw(TIME_FORMATS)
    field = Time(
        name=name, side=side, parts=("hour", "weekday", "year"), format=text_format,
        timezone=draw(TIME_ZONES),
    )  # fmt: skip
    if text_format is not None:
        return field, moments_as(text_format), pl.String
    if draw(st.booleans()):
        return field, SECONDS_THINGS, pl.Int64
    return field, MOMENT_THINGS, draw(TIME_TYPES)


NAMES = ["user", "élan/7", "get", 'quo"ted', "a,b", "pack", "x0", "None"]
NULL_VALUES = ["NA", "-1", "0", "true"]


def is_null(field: Field, value: Any) -> bool:
    """Tell whether a JSON value of a generated field is one of ``NULL_VALUES`` that it names."""
    if isinstance(value, list):
        left = [item for item in value if item != "" or not is_dropping_empty(field)]
        return bool(left) and all(is_null(field, item) for item in left)
    names = set(field.null_values or ())
    if isinstance(field, Categorical | MultiCategorical) and field.dtype != "integer":
        return str(value) in names or (field.dtype == "boolean" and str(value).lower() in names)
    if isinstance(field, Time) and field.format is not None:
        return value in names
    try:
        number = float(value)
    except ValueError:
        return value in names
    rounded = float(np.float32(number)) if isinstance(field, Numeric) else number
    return any(rounded == float(name) for name in names - {"NA", "true"})


def is_dropping_empty(field: Field) -> bool:
    """Tell whether a list field passes over empty texts."""
    return isinstance(field, MultiCategorical) and field.empty_is_missing


@cache
def column_of(things: Things, null: str | None, textual: bool, rows: int) -> Any:
    """Things of a column, some missing; among them those that a file says by its null value."""
    if null == "NA":
        marks = Thing(null, null, null if textual else None), Thing(None, null, None)
        things = st.sampled_from(marks) | things | things
    return st.lists(st.just(MISSING) | things | things, min_size=rows, max_size=rows)


@cache
def field_of(kind: Any, name: str, side: Side) -> st.SearchStrategy[tuple[Field, Things, Any]]:
    """A field of a kind, its things, and the Parquet type of its column."""
    return kind(name, side)


FIELD_NAMES = st.lists(st.sampled_from(NAMES), min_size=2, max_size=5, unique=True)
ROW_COUNTS = st.integers(1, 8)
ANY_SIDE = st.sampled_from(SIDES)
KINDS = st.sampled_from([categorical, multi_categorical, numeric, time])
NULLS_OF_FIELD = st.just(None) | st.lists(st.sampled_from(NULL_VALUES), max_size=2)
NULLS_OF_FILE = st.lists(st.sampled_from(NULL_VALUES), max_size=1)


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """A spec with up to five fields, one at least on each side, and up to eight rows."""
    names = draw(FIELD_NAMES)
    rows = draw(ROW_COUNTS)
    fields, columns, types = [], {}, {}
    for number, name in enumerate(names):
        side = SIDES[number] if number < 2 else draw(ANY_SIDE)
        plain, things, types[name] = draw(field_of(draw(KINDS), name, side))
        named = draw(NULLS_OF_FIELD)
        fields.append(msgspec.structs.replace(plain, null_values=named and tuple(named)))
        null = named[0] if named else None
        columns[name] = draw(column_of(things, null, types[name] == pl.String, rows))
    spec = FeatureSpec(label="click", fields=tuple(fields), null_values=tuple(draw(NULLS_OF_FILE)))
    return Log(spec, columns, types)
