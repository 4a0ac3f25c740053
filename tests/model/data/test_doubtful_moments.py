"""Moments that are hardly meant are named, with the format that is absent."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from app.features.spec import Categorical, FeatureSpec, Numeric, Time
from model.data.doubtful_moments import DoubtfulMoments, date_formats, date_hint
from model.data.errors import DataError
from model.data.reader import Reader


def warnings(*values: Any, text_format: str | None = None, zone: str = "UTC") -> list[str]:
    """The warnings about a column of these values."""
    column = Time(name="when", side="context", parts=("hour",), timezone=zone, format=text_format)
    doubtful = DoubtfulMoments(column, "format")
    doubtful.add(values)
    return list(doubtful.lines())


@pytest.mark.parametrize("value", [20141021, "20141021"])
def test_a_date_that_is_read_as_seconds(value: Any) -> None:
    """Its digits are seconds of 1970: the warning names value, moment and format."""
    assert warnings(value, None, "") == [
        f"field 'when': 1 of 1 values looked at lie before 1995: {value!r} is read as 1970-08-22"
        ' 02:43:41 UTC; if these are dates, give `format = "%Y%m%d"`'
    ]


@pytest.mark.parametrize(
    ("value", "text_format"),
    [
        ("14102113", "%y%m%d%H"), (141021, "%y%m%d"), ("201410", "%Y%m"), (20141021, "%Y%m%d"),
        (2014102113, "%Y%m%d%H"), ("201410211300", "%Y%m%d%H%M"), ("141021130000", "%y%m%d%H%M%S"),
        ("20141021130000", "%Y%m%d%H%M%S"), ("20101021", "%Y%m%d"), (1410211300, "%y%m%d%H%M"),
    ],
)  # fmt: skip
def test_formats_of_digits(value: Any, text_format: str) -> None:
    """Dates, with or without hours, minutes and seconds; the longer year goes first."""
    assert text_format in date_formats(value)
    assert date_hint("format", date_formats(value)).endswith(f'`format = "{text_format}"`')


@pytest.mark.parametrize(
    "value",
    [881_252_305, 1_413_896_400, "1413896400", "2014", 20_141_321, 19_700_101, "2014-10-21", 1.5,
     None, True, "٢٠١٤١٠٢١", 99_991_231],
)  # fmt: skip
def test_digits_that_are_no_date(value: Any) -> None:
    """Seconds since 1970, other text, and dates outside of the years that logs are from."""
    assert date_formats(value) == frozenset()
    assert date_hint("format", date_formats(value)) == ""


def test_moments_that_are_meant_are_not_worth_a_word() -> None:
    """MovieLens is of 1997, and today's log is of today, in any form."""
    now = int(time.time())
    assert warnings(881_252_305, now, str(now - 5), "2014-10-21T13:00:00Z", "yesterday") == []
    assert warnings("20141021", "20141022", text_format="%Y%m%d") == []


@pytest.mark.parametrize(
    ("value", "where"),
    [("1969-12-31", "before 1995"), (0, "before 1995"), ("1994-12-31T23:59:59Z", "before 1995"),
     ("2242-01-01", "in the future"), (8_000_000_000, "in the future")],
)  # fmt: skip
def test_moments_outside_of_the_years_of_logs(value: Any, where: str) -> None:
    """They are counted beside the values that are looked at, and the first is shown."""
    now = int(time.time())
    [line] = warnings(now, value, now - 1, value)
    assert f"2 of 4 values looked at lie {where}: {value!r} is read as" in line
    assert "`format" not in line


def test_the_first_hours_of_a_zone_are_not_the_future() -> None:
    """A log of a zone that is ahead, read as UTC, is not doubted."""
    ahead = datetime.fromtimestamp(time.time() + 12 * 3600, UTC)
    assert warnings(ahead.strftime("%Y-%m-%d %H:%M:%S")) == []


def test_moments_of_a_format_are_looked_at_too() -> None:
    """A format may be wrong as well; none is proposed in its place."""
    [line] = warnings("31-12-2093", text_format="%d-%m-%Y")
    assert "in the future: '31-12-2093' is read as 2093-12-31" in line
    assert "give" not in line


def test_plausible_seconds_that_all_read_as_dates() -> None:
    """Minutes of 2014 in ten digits are seconds of 2014, too: from twenty on it is no chance."""
    values = [f"14{month:02}{day:02}1300" for month in range(1, 10) for day in range(1, 4)]
    assert warnings(*values[:3]) == []
    assert warnings(*values) == [
        "field 'when': all values looked at read as dates, and as seconds; if these are dates, give"
        ' `format = "%y%m%d%H%M"`'
    ]
    assert warnings(*values, "1413896400") == []


def test_few_of_many_values_are_looked_at() -> None:
    """A frame of a hundred thousand distinct moments costs a thousand looks."""
    [line] = warnings(*range(100_000))
    assert "1,000 of 1,000 values" in line


ITEM = Categorical(name="item", side="candidate")
DAY = Time(name="day", side="context", parts=("weekday",))
HEAD = Categorical(name="head", side="context")


def read_log(tmp_path: Path, spec: FeatureSpec, days: list[Any], ending: str) -> list[str]:
    """The warnings about a file with these days, of a reader that was asked for moments."""
    size = len(days)
    frame = pl.DataFrame({"click": [1] * size, "day": days, "item": ["a"] * size, "head": "h"})
    path = tmp_path / f"log.{ending}"
    frame.write_csv(path) if ending == "csv" else frame.write_parquet(path)
    reader = Reader(spec, [path], moment=spec.timestamp is not None)
    assert sum(found.height for found in reader.frames()) == size
    return reader.warnings


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize(
    "days", [[20141021, 20141022, None], ["20141021", "20141022", ""]], ids=repr
)
def test_a_field_of_dates_is_named(tmp_path: Path, days: list[Any], ending: str) -> None:
    """Numbers and text, in text files and Parquet: one warning with the key to write."""
    spec = FeatureSpec(label="click", fields=(DAY, ITEM))
    [line] = read_log(tmp_path, spec, days, ending)
    assert line.startswith("field 'day': 2 of 2 values looked at lie before 1995: ")
    assert line.endswith('; if these are dates, give `format = "%Y%m%d"`')


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_timestamp_that_is_no_field_has_its_own_key(tmp_path: Path, ending: str) -> None:
    """Its format is the spec's ``timestamp_format``; with it there is no warning."""
    spec = FeatureSpec(label="click", timestamp="day", fields=(HEAD, ITEM))
    [line] = read_log(tmp_path, spec, [20141021, 20141022], ending)
    assert line.endswith('give `timestamp_format = "%Y%m%d"`')
    told = msgspec.structs.replace(spec, timestamp_format="%Y%m%d")
    assert read_log(tmp_path, told, [20141021, 20141022], ending) == []


def test_a_timestamp_that_is_a_field_is_named_once(tmp_path: Path) -> None:
    """One column has one warning, whatever it is used for."""
    spec = FeatureSpec(label="click", timestamp="day", fields=(DAY, ITEM))
    [line] = read_log(tmp_path, spec, [20141021, 20141022], "csv")
    assert "`format = " in line


@pytest.mark.parametrize("timestamp", [None, "day"])
def test_digits_that_are_out_of_range_name_the_format(tmp_path: Path, timestamp: Any) -> None:
    """Fourteen digits are no seconds: the error says which format they have."""
    fields = (HEAD, ITEM) if timestamp else (DAY, ITEM)
    spec = FeatureSpec(label="click", timestamp=timestamp, fields=fields)
    with pytest.raises(DataError, match=r'format = "%Y%m%d%H%M%S"'):
        read_log(tmp_path, spec, [20141021130000], "csv")


def test_milliseconds_are_named(tmp_path: Path) -> None:
    """An error says what is expected."""
    with pytest.raises(DataError, match="expected seconds since 1970, not milliseconds"):
        read_log(tmp_path, FeatureSpec(label="click", fields=(DAY, ITEM)), [1413896400000], "csv")


@pytest.mark.parametrize(("name", "text"), [("price", "NA"), ("user", "\\N"), ("day", "NULL")])
def test_null_texts_that_break_a_rule_name_the_key(tmp_path: Path, name: str, text: str) -> None:
    """Bad lines of numbers, integers and times say how to make such a text a missing value."""
    numbers = (
        Numeric(name="price", side="candidate"),
        Categorical(name="user", side="context", dtype="integer"),
    )
    spec = FeatureSpec(label="click", fields=(DAY, *numbers))
    row = {"click": "1", "day": "1413896400", "price": "1.5", "user": "7", name: text}
    path = tmp_path / "log.csv"
    pl.DataFrame({key: [value] for key, value in row.items()}).write_csv(path)
    with pytest.raises(DataError, match=f"field '{name}'.*means that.*`null_values`"):
        list(Reader(spec, [path]).frames())
    named = msgspec.structs.replace(spec, null_values=(text,))
    assert len(list(Reader(named, [path]).frames())) == 1
