"""Columns of Parquet files, as other programs write them → columns of a few plain types.

The plain types are text, booleans, integers, numbers with a fraction, dates, moments (instants in
UTC, or local times), and lists of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from polars import selectors as cs

from app.errors import CtrError
from app.features.spec import Categorical, FeatureSpec, Field, MultiCategorical, Numeric, Time
from model.data.parquet_footer import instant_columns, int96_columns


class UnreadableColumn(CtrError):
    """A column of which no row can be used; the message names it, but not its file."""


@dataclass(frozen=True, slots=True)
class ParquetColumns:
    """The wanted columns of a file: their types in it, and which of them hold instants."""

    schema: Mapping[str, pl.DataType]
    """The types of all columns of the file."""
    instants: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> ParquetColumns:
        """Read a file's schema.

        Raises:
            polars.exceptions.PolarsError: it is not Parquet.
        """
        schema = dict(pl.read_parquet_schema(path))
        if not any(_is_local(_inner(dtype)) for dtype in schema.values()):
            return cls(schema, frozenset())
        # Nanoseconds, which polars takes for INT96, end in 2262: 9999-12-31 would become that.
        for name in int96_columns(path):
            schema[name] = _in_microseconds(schema[name])
        return cls(schema, frozenset(instant_columns(path)))

    def scan(self, path: Path) -> pl.LazyFrame:
        """Open the file, its columns of the types of ``schema``."""
        return pl.scan_parquet(
            path,
            glob=False,
            schema=self.schema,
            # Lists of INT96 are decoded in the unit that Arrow's schema names.
            cast_options=pl.ScanCastOptions(
                datetime_cast=["nanosecond-downcast", "millisecond-upcast"]
            ),
        )

    def plain(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Turn the columns of a frame of this file into plain ones.

        Raises:
            UnreadableColumn: a column's type is not one that a field can have.
        """
        return frame.select(self._plain(frame[name]) for name in frame.columns)

    def unreadable(self) -> dict[str, pl.DataType]:
        """Return the columns of types that no field can have."""
        return {
            name: dtype
            for name, dtype in self.schema.items()
            if _plain(_inner(dtype), pl.element(), False) is None
        }

    def kept(self, column: pl.Series) -> pl.Series:
        """Return a column of this file as it is, but for the time zone that its type lacks."""
        if column.name in self.instants and _is_local(column.dtype):
            return column.dt.replace_time_zone("UTC")
        return column

    def _plain(self, column: pl.Series) -> pl.Series:
        name, dtype = column.name, column.dtype
        if isinstance(dtype, pl.Extension):
            column = column.ext.storage()
        if isinstance(column.dtype, pl.Array):
            column = column.arr.to_list()
        if isinstance(column.dtype, pl.List):
            kind: Any = column.dtype.inner
            values = pl.element().fill_nan(None) if kind.is_float() else pl.element()
            inner = _plain(kind, values, name in self.instants)
            found = None if inner is None else pl.col("v").list.eval(inner)
        else:
            found = _plain(column.dtype, pl.col("v"), name in self.instants)
        if found is None:
            raise UnreadableColumn(
                f"column {name!r} is of type {dtype}, which no field can be; write it as text, a"
                " number, a time or a list of these"
            )
        try:
            # Under a name of its own: polars takes some names for patterns.
            return column.to_frame("v").select(found)["v"].alias(name)
        except pl.exceptions.ComputeError as error:
            # Of all conversions only that of bytes to text can fail.
            raise UnreadableColumn(
                f"column {name!r} is of type {dtype} and holds bytes that are not UTF-8 text; write"
                " it as text (in hexadecimal digits, say)"
            ) from error


def _inner(dtype: Any) -> Any:
    """Return the type of a list's values, or the type itself."""
    return dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype


def _is_local(dtype: Any) -> bool:
    return isinstance(dtype, pl.Datetime) and dtype.time_zone is None


def _in_microseconds(dtype: Any) -> Any:
    if isinstance(dtype, pl.List):
        return pl.List(_in_microseconds(dtype.inner))
    return pl.Datetime("us", dtype.time_zone) if isinstance(dtype, pl.Datetime) else dtype


def _plain(dtype: Any, values: pl.Expr, instants: bool) -> pl.Expr | None:
    """Return values of a Parquet type in a plain one, or None if no field can have it."""
    if dtype.is_integer() or dtype.is_float():
        return values
    if dtype in (pl.String, pl.Boolean, pl.Date, pl.Null):
        return values
    if isinstance(dtype, pl.Decimal):
        return values.cast(pl.Float64 if dtype.scale else pl.Int128)
    if dtype in (pl.Categorical, pl.Enum, pl.Binary):
        return values.cast(pl.String)
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is not None:
            return values.dt.convert_time_zone("UTC")
        return values.dt.replace_time_zone("UTC") if instants else values
    return None


def without_nan(frame: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Turn each NaN of a column of floats into a missing value; count those of each column."""
    # A name with NUL is of a column that is kept as it is.
    floats = [
        column.name
        for column in frame
        if column.dtype.is_float() and not column.name.startswith("\0")
    ]
    if not floats:
        return frame, {}
    counts = frame.select(cs.by_name(*floats).is_nan().sum()).row(0, named=True)
    found = {name: count for name, count in counts.items() if count}
    return frame.with_columns(cs.by_name(*found).fill_nan(None)) if found else frame, found


def check_fit(spec: FeatureSpec, frame: pl.DataFrame) -> None:
    """Compare the types of plain columns with what each field of the spec can take.

    Raises:
        UnreadableColumn: no value of a column can be one of its field; the message says what
            the field takes.
    """
    fields = {field.name: field for field in spec.fields}
    for column in frame:
        kind = _kind(column.dtype)
        whose, taken = _taken(fields.get(column.name), column.name == spec.label)
        if kind not in taken and not without_nan(column.to_frame())[0][column.name].is_null().all():
            hint = '; booleans need a field of dtype = "boolean"' if "booleans" in kind else ""
            raise UnreadableColumn(
                f"column {column.name!r} holds {kind} ({column.dtype}), but {whose} takes"
                f" {', '.join(taken)}{hint}"
            )


def _kind(dtype: Any) -> str:
    """Name the values of a plain type."""
    if isinstance(dtype, pl.List):
        return f"lists of {_kind(dtype.inner)}"
    if dtype.is_integer():
        return "integers"
    if dtype.is_float():
        return "numbers with a fraction"
    if isinstance(dtype, pl.Datetime):
        return "moments"
    return {pl.String: "text", pl.Boolean: "booleans", pl.Date: "dates"}.get(dtype, "nulls")


def _taken(field: Field | None, label: bool) -> tuple[str, Sequence[str]]:
    """Return the name of a field in messages, and the kinds of values that it takes."""
    numbers = ("text", "integers", "numbers with a fraction")
    single: Sequence[str]
    match field:
        case Categorical(dtype="boolean") | MultiCategorical(dtype="boolean"):
            single = ("text", "booleans")
            whose = "a boolean field"
        case Categorical(dtype="integer") | MultiCategorical(dtype="integer"):
            single = (*numbers, "moments")
            whose = "an integer field"
        case Categorical() | MultiCategorical():
            single = ("text", "integers", "dates", "moments")
            whose = 'a field of dtype = "string"'
        case Numeric():
            return "a numeric field", (*numbers, "moments")
        case Time():
            return "a time field", (*numbers, "dates", "moments")
        case None if label:
            return "the label", (*numbers, "booleans")
        case None:
            return "the timestamp", (*numbers, "dates", "moments")
    if isinstance(field, MultiCategorical):
        # Lists that are all empty have no type.
        return whose, ("text", *(f"lists of {kind}" for kind in (*single, "nulls")))
    return whose, single
