"""Generated logs: rows of a generated spec as JSON, as a CSV file and as a Parquet table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
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


TEXTS = st.sampled_from(["a", "b", 'q"', '"', "x,y", "é", "e\u0301", " a", *RESERVED_LOOKALIKES])
TEXTS |= st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n|;"), max_size=6)
INT_TYPES = {
    pl.Int64: st.integers(-2, 4) | st.integers(-(2**63), 2**63 - 1),
    pl.UInt64: st.integers(0, 4) | st.integers(0, 2**64 - 1),
    pl.Float64: st.integers(-2, 4) | st.integers(-(2**53) + 1, 2**53 - 1),
}


@st.composite
def integer_things(draw: st.DrawFn, kind: Any) -> Thing:
    value = draw(INT_TYPES[kind])
    texts = [str(value), f"{value}.0", f"{value}."]
    numbers: list[Any] = [value]
    if abs(value) < 2**53:
        numbers.append(float(value))
        texts.append(f"{value:.15e}")
    return Thing(draw(st.sampled_from(numbers + texts)), draw(st.sampled_from(texts)), value)


def boolean_things() -> st.SearchStrategy[Thing]:
    return st.builds(
        lambda value, case, cased: Thing(case(value) if cased else value, case(value), value),
        st.booleans(),
        st.sampled_from([str, lambda v: str(v).lower(), lambda v: str(v).upper()]),
        st.booleans(),
    )


@st.composite
def categorical(draw: st.DrawFn, name: str, side: Side) -> tuple[Field, Any, Any]:
    field = Categorical(
        name=name, side=side, dtype=draw(st.sampled_from(["integer", "string", "boolean"])),
        min_count=draw(st.integers(1, 2)), empty_is_missing=draw(st.booleans()),
    )  # fmt: skip
    if field.dtype == "boolean":
        return field, boolean_things(), pl.Boolean
    if field.dtype == "integer":
        kind = draw(st.sampled_from(list(INT_TYPES)))
        return field, integer_things(kind), kind
    kind = draw(st.sampled_from([pl.String, pl.Categorical, pl.Int64]))
    if kind == pl.Int64:
        return field, INT_TYPES[kind].map(lambda v: Thing(v, str(v), v)), kind
    return field, TEXTS.map(lambda text: Thing(text, text, text)), kind


@st.composite
def multi_categorical(draw: st.DrawFn, name: str, side: Side) -> tuple[Field, Any, Any]:
    field = MultiCategorical(
        name=name, side=side, dtype=draw(st.sampled_from(["integer", "string", "boolean"])),
        min_count=draw(st.integers(1, 2)), max_values=draw(st.integers(1, 3)),
        separator=draw(st.sampled_from(["|", ";;"])),
    )  # fmt: skip
    if field.dtype == "integer":
        kind = draw(st.sampled_from([pl.Int64, pl.UInt64]))
        items = integer_things(kind)
    elif field.dtype == "boolean":
        kind, items = pl.Boolean, boolean_things()
    else:
        kind = pl.String
        items = TEXTS.map(lambda text: Thing(text, text, text))

    def together(things: Sequence[Thing]) -> Thing:
        cell = field.separator.join(str(thing.cell) for thing in things) or field.separator
        return Thing([t.json for t in things], cell, [t.parquet for t in things])

    return field, st.lists(items, max_size=5).map(together), pl.List(kind)


EDGES = (-1.5, 0.0, 0.1, 7.0)


@st.composite
def numeric(draw: st.DrawFn, name: str, side: Side) -> tuple[Field, Any, Any]:
    encoding = draw(st.sampled_from(["quantile", "log_squared", "edges", "scaled"]))
    field = Numeric(
        name=name, side=side, encoding=encoding, buckets=draw(st.integers(2, 9)),
        min_count=draw(st.integers(1, 2)), edges=EDGES if encoding == "edges" else (),
    )  # fmt: skip
    kind = draw(st.sampled_from([pl.Float64, pl.Float32, pl.Int64]))
    if kind == pl.Int64:
        return field, INT_TYPES[kind].map(lambda v: Thing(v, str(v), v)), kind
    width = 32 if kind == pl.Float32 else 64
    plain = st.sampled_from([-1.5, -0.0, 0.0, 0.5, 2.0, 7.0])
    values = plain | st.floats(-100, 100, width=width) | st.floats(
        -float(2**127), float(2**127), width=width
    )  # fmt: skip
    forms = st.sampled_from([repr, "{:.17e}".format, oracle_text])
    return field, st.builds(lambda v, form: Thing(v, form(v), v), values, forms), kind


def oracle_text(value: float) -> str:
    """A number without the zeros beside its point, as Oracle writes it."""
    return re.sub(r"^(-?)0(\.[0-9]*[1-9])|(\.)0$", r"\1\2\3", repr(value))


@st.composite
def time(draw: st.DrawFn, name: str, side: Side) -> tuple[Field, Any, Any]:
    text_format = draw(st.sampled_from([None, None, "%y%m%d%H", "%d/%b/%Y:%H:%M:%S %z"]))
    field = Time(
        name=name, side=side, parts=("hour", "weekday", "year"), format=text_format,
        timezone=draw(st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"])),
    )  # fmt: skip
    moments = st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1)) | st.sampled_from(
        [datetime(2024, 3, 31, 2, 30), datetime(2024, 10, 27, 2, 30), datetime(2024, 5, 5)]
    )
    if text_format is not None:
        offsets = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
        texts = st.builds(
            lambda moment, offset: moment.replace(tzinfo=offset).strftime(text_format),
            moments,
            offsets,
        )
        return field, texts.map(lambda text: Thing(text, text, text)), pl.String
    if draw(st.booleans()):
        seconds = st.integers(-(2**31), 2**31)
        return field, seconds.map(lambda v: Thing(v, str(v), v)), pl.Int64
    kind = draw(st.sampled_from([pl.Datetime("us"), pl.Datetime("ms")]))
    return field, moments.map(lambda m: Thing(m.isoformat(), m.isoformat(" "), m)), kind


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


def with_nulls(things: st.SearchStrategy[Thing], field: Field, kind: Any) -> Any:
    """Things of a field, among them those that a file says by its first null value."""
    text = (field.null_values or ("",))[0]
    if text != "NA":
        return things
    marks = Thing(text, text, text if kind == pl.String else None), Thing(None, text, None)
    return st.sampled_from(marks) | things | things


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """A spec with up to five fields, one at least on each side, and up to eight rows."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=5, unique=True))
    rows = draw(st.integers(1, 8))
    fields, columns, types = [], {}, {}
    for number, name in enumerate(names):
        side = SIDES[number] if number < 2 else draw(st.sampled_from(SIDES))
        kind = draw(st.sampled_from([categorical, multi_categorical, numeric, time]))
        plain, things, types[name] = draw(kind(name, side))
        named = draw(st.just(None) | st.lists(st.sampled_from(NULL_VALUES), max_size=2))
        field = msgspec.structs.replace(plain, null_values=named and tuple(named))
        things = with_nulls(things, field, types[name])
        fields.append(field)
        column = st.lists(st.just(MISSING) | things | things, min_size=rows, max_size=rows)
        columns[name] = draw(column)
    of_the_file = tuple(draw(st.lists(st.sampled_from(NULL_VALUES), max_size=1)))
    spec = FeatureSpec(label="click", fields=tuple(fields), null_values=of_the_file)
    return Log(spec, columns, types)
