"""Notes are printed once for files whose every row is read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from app.features.spec import Categorical, Field, MultiCategorical, Time
from model.data.reading_notes import ReadingNotes
from model.data.values import field_values

BERLIN = Time(name="when", side="context", parts=("hour",), timezone="Europe/Berlin")
LOCAL = ["field 'when': times without an offset are read as local time of Europe/Berlin"]
ONE_PM = datetime(2014, 10, 21, 13)


def said(field: Field, *columns: pl.Series) -> list[str]:
    """The notes on columns of a field, frame by frame."""
    notes = ReadingNotes()
    for column in columns:
        notes.add_times(field, column, field_values(field, column)[0])
    return notes.lines()


@pytest.mark.parametrize(
    "values",
    [
        ["2014-10-21T13:00:00"],
        ["2014-10-21 13:00:00Z", "2014-10-21 13:00:00"],
        ["2014-10-21 13"],
        ["20141021T1300"],
        [ONE_PM],
    ],
    ids=str,
)
def test_local_times_of_a_time_zone_are_said_once(values: list[Any]) -> None:
    """Their writer may have meant UTC, and hours would be shifted. However many frames, once."""
    column = pl.Series(values)
    assert said(BERLIN, column, column) == LOCAL


@pytest.mark.parametrize(
    "values",
    [
        ["2014-10-21T13:00:00Z", "2014-10-21 13:00:00 UTC", "2014-10-21 13:00 +02:00", "", None],
        ["2014-10-21T13:00:00.5+0200", "2014-10-21T13:00-02", "20141021T1300+02:00"],
        ["1413896400", "1413896400.5", "-5"],
        [1413896400],
        [ONE_PM.replace(tzinfo=UTC)],
        ["2014-10-21"],
        [ONE_PM.date()],
        [None],
    ],
    ids=str,
)
def test_instants_are_not_worth_a_word(values: list[Any]) -> None:
    """Offsets, seconds, dates and columns with a time zone say what they mean."""
    assert said(BERLIN, pl.Series(values)) == []


def test_local_times_without_a_time_zone_are_utc() -> None:
    """Under UTC, the default, nothing is shifted."""
    assert said(Time(name="when", side="context", parts=("hour",)), pl.Series([ONE_PM])) == []


@pytest.mark.parametrize(
    ("text_format", "expected"), [("%y%m%d%H", LOCAL), ("%y%m%d%H%z", []), ("%Y-%m-%d", [])]
)
def test_a_format_with_an_offset_is_not_local(text_format: str, expected: list[str]) -> None:
    """A format says by itself whether its times have an offset."""
    field = Time(
        name="when", side="context", parts=("hour",), timezone="Europe/Berlin", format=text_format
    )
    text = ONE_PM.replace(tzinfo=UTC).strftime(text_format)
    assert said(field, pl.Series([None, text])) == expected


@pytest.mark.parametrize("field", [
    Categorical(name="at", side="context"), MultiCategorical(name="at", side="candidate"),
])  # fmt: skip
def test_moments_of_a_text_field_are_told(field: Field) -> None:
    """Their text has one form, which requests have to keep to."""
    moments = pl.Series([ONE_PM])
    column = pl.Series([[ONE_PM]]) if isinstance(field, MultiCategorical) else moments
    [line] = said(field, column, column)
    assert line.startswith(
        "field 'at': moments of Parquet become text such as 2014-10-21T13:00:00Z"
    )
    assert said(field, pl.Series(["2014-10-21T13:00:00Z"])) == []


def test_integers_of_moments_are_seconds() -> None:
    """No text is made of them, so nothing is said."""
    assert said(Categorical(name="at", side="context", dtype="integer"), pl.Series([ONE_PM])) == []
