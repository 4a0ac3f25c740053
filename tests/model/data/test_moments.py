"""Typed dates and moments become what a request would say in their place."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from app.features.spec import Categorical, Field, MultiCategorical, Numeric, Time
from model.data.moments import as_json, is_moment

TEXT = Categorical(name="x", side="context")
INTEGER = Categorical(name="x", side="context", dtype="integer")
HOUR = Time(name="x", side="context", parts=("hour",), timezone="Europe/Berlin")
STAMP = Time(name="x", side="context", parts=("hour",), timezone="Europe/Berlin", format="%Y%m%d%H")
LATE = datetime(2014, 10, 21, 23, 30, 0, 250_000)
INSTANT = LATE.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("field", "moment", "expected"),
    [
        (TEXT, LATE, "2014-10-21T23:30:00.250"),
        (TEXT, INSTANT, "2014-10-21T23:30:00.250Z"),
        (TEXT, datetime(2014, 10, 21), "2014-10-21T00:00:00"),
        (TEXT, date(2014, 10, 21), "2014-10-21"),
        (INTEGER, INSTANT, 1_413_934_200),
        (INTEGER, LATE, 1_413_934_200),
        (Numeric(name="x", side="context"), INSTANT, 1_413_934_200),
        (HOUR, LATE, "2014-10-21T23:30:00"),
        (HOUR, INSTANT, 1_413_934_200),
        (HOUR, datetime(1969, 12, 31, 23, 59, 59, 500_000, UTC), -1),
        (HOUR, date(2014, 10, 21), "2014-10-21"),
        (STAMP, LATE, "2014102123"),
        (STAMP, INSTANT, "2014102201"),
        (STAMP, date(2014, 10, 21), "2014102100"),
    ],
    ids=str,
)
def test_a_moment_is_what_json_holds_for_it(field: Field, moment: date, expected: Any) -> None:
    """Text or seconds, by the field; what is missing stays so."""
    assert as_json(field, pl.Series([moment, None, moment])).to_list() == [expected, None, expected]


def test_values_of_lists_are_moments_too() -> None:
    """Empty and missing lists stay what they are."""
    tags = MultiCategorical(name="x", side="candidate")
    found = as_json(tags, pl.Series([[INSTANT, None], [], None]))
    assert found.to_list() == [["2014-10-21T23:30:00.250Z", None], [], None]


@pytest.mark.parametrize("values", [["a"], [1], [1.5], [True], [["a"]], [None]], ids=str)
def test_other_columns_stay(values: list[Any]) -> None:
    """Only dates and moments are turned."""
    column = pl.Series(values)
    assert not is_moment(column.dtype)
    for field in (TEXT, HOUR, STAMP):
        assert as_json(field, column).to_list() == values


@pytest.mark.parametrize("hour", [0, 1])
def test_hours_that_clocks_repeat(hour: int) -> None:
    """Summer time ends: two hours of UTC are one of the clock, as the format has it."""
    repeated = datetime(2024, 10, 27, hour, 30, tzinfo=UTC)
    assert as_json(STAMP, pl.Series([repeated])).to_list() == ["2024102702"]


def test_an_offset_of_a_format_is_that_of_the_time_zone() -> None:
    """Local times have it too."""
    field = Time(name="x", side="context", parts=("hour",), timezone="Europe/Berlin",
                 format="%Y%m%d%H%z")  # fmt: skip
    assert as_json(field, pl.Series([LATE])).to_list() == ["2014102123+0200"]
    assert as_json(field, pl.Series([INSTANT])).to_list() == ["2014102201+0200"]


@pytest.mark.parametrize("milliseconds", [10**15, -(10**15), 253_402_300_799_000])
@pytest.mark.parametrize("zone", [None, "UTC"])
def test_moments_outside_of_the_calendar(milliseconds: int, zone: str | None) -> None:
    """No field ends in a traceback; the encoder refuses what they become."""
    column = pl.Series([milliseconds, None], dtype=pl.Datetime("ms", zone))
    for field in (TEXT, INTEGER, HOUR, STAMP):
        text, missing = as_json(field, column).to_list()
        assert text is not None
        assert missing is None
