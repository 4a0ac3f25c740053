"""Typed dates and moments → what JSON holds for them, by the field that they are values of."""

from __future__ import annotations

from datetime import MAXYEAR, MINYEAR, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from app.features.spec import Categorical, Field, MultiCategorical, Time

_LOCAL = "%Y-%m-%dT%H:%M:%S"


def as_json(spec_field: Field, column: pl.Series) -> pl.Series:
    """Turn a column of dates or moments, or of lists of them, into text or seconds since 1970.

    A time field gets seconds for instants and ISO 8601 text for dates and local times, so that
    the encoder settles hours that clocks skip or repeat; with a ``format`` it gets text of that
    format in its time zone. A text field gets ISO 8601 text, with a fraction of a second where
    there is one, which ends in ``Z`` for instants. Other fields get seconds. Columns of other
    types stay as they are.
    """
    dtype = column.dtype
    if isinstance(dtype, pl.List):
        found = _as_json(spec_field, dtype.inner, pl.element())
        found = None if found is None else pl.col("v").list.eval(found)
    elif is_moment(dtype) and isinstance(spec_field, Time) and spec_field.format is not None:
        return _formatted(column, spec_field.format, ZoneInfo(spec_field.timezone))
    else:
        found = _as_json(spec_field, dtype, pl.col("v"))
    return column if found is None else column.to_frame("v").select(found)["v"]


def _as_json(spec_field: Field, dtype: Any, values: pl.Expr) -> pl.Expr | None:
    if not is_moment(dtype):
        return None
    if dtype == pl.Date:
        return values.dt.to_string("%Y-%m-%d")
    instants = dtype.time_zone is not None
    if isinstance(spec_field, Categorical | MultiCategorical) and spec_field.dtype == "string":
        return values.dt.to_string(_LOCAL + ("%.fZ" if instants else "%.f"))
    if isinstance(spec_field, Time) and not instants:
        return values.dt.to_string(_LOCAL)
    return values.dt.epoch("s")


def is_moment(dtype: Any) -> bool:
    """Tell whether values of a type are dates or moments."""
    return dtype == pl.Date or isinstance(dtype, pl.Datetime)


def _formatted(column: pl.Series, text_format: str, zone: ZoneInfo) -> pl.Series:
    """Write each moment as a request would have to write it.

    Moments that Python cannot tell in the time zone, before the year 1 or after 9999, are ISO 8601
    text, which the encoder refuses.
    """

    def text(moment: date) -> str:
        if not isinstance(moment, datetime):
            return moment.strftime(text_format)
        try:
            local = moment.tzinfo is None
            told = moment.replace(tzinfo=zone) if local else moment.astimezone(zone)
        except OverflowError:
            return moment.isoformat()
        return told.strftime(text_format)

    # Python's letters, which are those of strptime: some of polars' mean something else.
    moments = column.drop_nulls().unique()
    moments = moments.filter(moments.dt.year().is_between(MINYEAR, MAXYEAR))
    texts = pl.Series([text(moment) for moment in moments.to_list()], dtype=pl.String)
    others = column.dt.to_string("iso")
    return column.replace_strict(moments, texts, default=others, return_dtype=pl.String)
