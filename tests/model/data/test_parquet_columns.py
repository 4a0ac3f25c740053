"""Parquet as other programs write it: a file, a text file and a request mean the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from app.features.encoder import Encoder
from app.features.spec import (
    Categorical,
    FeatureSpec,
    Field,
    MultiCategorical,
    Numeric,
    Time,
)
from model.data.bad_lines import BadLines
from model.data.encode import encode_side
from model.data.errors import DataError
from model.data.log_files import pieces
from model.data.reader import MOMENT, Reader, labels
from model.data.values import json_rows
from model.data.wanted_columns import KEPT
from tests.support.encoding import encoded_columns
from tests.support.frames import learned, read
from tests.support.parquet import write_arrow, write_impala, write_old_hive, write_spark

Write = Callable[..., Path]
ONE_PM = datetime(2014, 10, 21, 13)
HALF_PAST = datetime(2014, 10, 21, 14, 30, 0, 500_000)
CLICKS = pa.array([1, 0, 1])


def instants(*moments: datetime | None) -> list[datetime | None]:
    """The same moments in UTC."""
    return [moment and moment.replace(tzinfo=UTC) for moment in moments]


def integer(name: str = "x") -> Categorical:
    return Categorical(name=name, side="context", dtype="integer", min_count=1)


def text(name: str = "x") -> Categorical:
    return Categorical(name=name, side="context", min_count=1)


def texts() -> MultiCategorical:
    return MultiCategorical(name="x", side="context", min_count=1)


def integers() -> MultiCategorical:
    return MultiCategorical(name="x", side="context", dtype="integer", min_count=1)


def number() -> Numeric:
    return Numeric(name="x", side="context", encoding="quantile")


def hour(**keys: Any) -> Time:
    return Time(name="x", side="context", parts=("hour", "day"), **keys)


BERLIN = hour(timezone="Europe/Berlin")
STAMPED = hour(timezone="Europe/Berlin", format="%y%m%d%H")
D0, D2, U64 = pa.decimal128(38, 0), pa.decimal128(10, 2), 2**64 - 1
BYTES = [b"a", "é".encode(), None]
CASES: dict[str, tuple[Field, pa.Array, list[Any]]] = {
    "DECIMAL as an id": (integer(), pa.array([Decimal(7), Decimal(U64), None], D0), [7, U64, None]),
    "DECIMAL as text": (text(), pa.array([Decimal(7), Decimal(-8), None], D0), ["7", "-8", None]),
    "small DECIMAL": (integer(), pa.array([Decimal(7), None], pa.decimal32(9, 0)), [7, None]),
    "DECIMAL of 19 digits": (
        integer(),
        pa.array([Decimal(10**19 - 1), None], pa.decimal128(19, 0)),
        [10**19 - 1, None],
    ),
    "DECIMAL with a scale": (
        number(),
        pa.array([Decimal("1.25"), Decimal("0.10"), None], D2),
        [1.25, 0.1, None],
    ),
    "DECIMAL of many digits": (
        number(),
        pa.array([Decimal("12345678901234567.89"), Decimal("0.07")], pa.decimal128(38, 2)),
        [12345678901234567.89, 0.07],
    ),
    "DECIMAL as a number": (number(), pa.array([Decimal(7), Decimal(8), None], D0), [7, 8, None]),
    "whole DECIMAL with a scale": (integer(), pa.array([Decimal("7.00"), None], D2), [7, None]),
    "DECIMAL as a time": (hour(), pa.array([Decimal(1_413_896_400)], D0), [1_413_896_400]),
    "BINARY": (text(), pa.array(BYTES, pa.binary()), ["a", "é", None]),
    "large BINARY": (text(), pa.array(BYTES, pa.large_binary()), ["a", "é", None]),
    "viewed BINARY": (text(), pa.array(BYTES, pa.binary_view()), ["a", "é", None]),
    "BINARY of one size": (text(), pa.array([b"ab", None], pa.binary(2)), ["ab", None]),
    "BINARY as a time": (hour(), pa.array([b"2014-10-21"], pa.binary()), ["2014-10-21"]),
    "dictionary": (text(), pa.array(["a", "b", None]).dictionary_encode(), ["a", "b", None]),
    "dictionary of integers": (integer(), pa.array([7, None]).dictionary_encode(), [7, None]),
    "dictionary of bytes": (text(), pa.array(BYTES).dictionary_encode(), ["a", "é", None]),
    "text with an extension": (text(), pa.array(["a", None], pa.json_()), ["a", None]),
    "large text": (text(), pa.array(["a", None], pa.large_string()), ["a", None]),
    "unsigned": (integer(), pa.array([7, U64, None], pa.uint64()), [7, U64, None]),
    "one unsigned byte": (integer(), pa.array([7, 255, None], pa.uint8()), [7, 255, None]),
    "unsigned as text": (text(), pa.array([7, U64, None], pa.uint64()), ["7", str(U64), None]),
    "half floats": (number(), pa.array([1.5, 2.0, None], pa.float16()), [1.5, 2.0, None]),
    "half floats as ids": (integer(), pa.array([1.0, 2.0], pa.float16()), [1, 2]),
    "ids with NaN, as pandas": (integer(), pa.array([7.0, float("nan")]), [7, None]),
    "NaN of half floats": (number(), pa.array([7.0, float("nan")], pa.float16()), [7, None]),
    "nothing but NaN": (text(), pa.array([float("nan")] * 2), [None, None]),
    "nothing but nulls": (text(), pa.nulls(2), [None, None]),
    "list of a dictionary": (
        texts(),
        pa.array([["a", "b"], [], None]).cast(pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        [["a", "b"], [], None],
    ),
    "list of BINARY": (texts(), pa.array([[b"a"], [], None]), [["a"], [], None]),
    "list of DECIMAL": (
        integers(),
        pa.array([[Decimal(7), Decimal(U64)], [], None], pa.list_(D0)),
        [[7, U64], [], None],
    ),
    "list of unsigned": (integers(), pa.array([[U64]], pa.list_(pa.uint64())), [[U64]]),
    "list of half floats": (integers(), pa.array([[1.0]], pa.list_(pa.float16())), [[1]]),
    "large list": (texts(), pa.array([["a"]], pa.large_list(pa.string())), [["a"]]),
    "list of one size": (texts(), pa.array([["a", "b"]], pa.list_(pa.string(), 2)), [["a", "b"]]),
    "lists that are all empty": (texts(), pa.array([[], []]), [[], []]),
    "list of moments": (
        texts(),
        pa.array([instants(HALF_PAST)], pa.list_(pa.timestamp("us", "UTC"))),
        [["2014-10-21T14:30:00.500Z"]],
    ),
    "list of dates": (texts(), pa.array([[date(2014, 10, 21)]]), [["2014-10-21"]]),
    "nanoseconds": (
        BERLIN,
        pa.array([ONE_PM, HALF_PAST, None], pa.timestamp("ns")),
        ["2014-10-21T13:00:00", "2014-10-21 14:30", None],
    ),
    "nanoseconds of a zone": (
        BERLIN,
        pa.array(instants(ONE_PM, HALF_PAST), pa.timestamp("ns", "America/New_York")),
        ["2014-10-21T13:00:00Z", "2014-10-21T16:30:00+02:00"],
    ),
    "milliseconds": (hour(), pa.array([ONE_PM], pa.timestamp("ms")), ["2014-10-21T13:00:00Z"]),
    "a date": (BERLIN, pa.array([date(2014, 10, 21)]), ["2014-10-21"]),
    "a date of 64 bits": (BERLIN, pa.array([date(2014, 10, 21)], pa.date64()), ["2014-10-21"]),
    "moments of a format": (
        STAMPED,
        pa.array(instants(ONE_PM, None), pa.timestamp("us", "UTC")),
        ["14102115", None],
    ),
    "local times of a format": (STAMPED, pa.array([HALF_PAST]), ["14102114"]),
    "dates of a format": (STAMPED, pa.array([date(2014, 10, 21)]), ["14102100"]),
    "moments as text": (
        text(),
        pa.array(instants(ONE_PM, HALF_PAST, None), pa.timestamp("us", "Europe/Berlin")),
        ["2014-10-21T13:00:00Z", "2014-10-21T14:30:00.500Z", None],
    ),
    "local times as text": (
        text(),
        pa.array([ONE_PM, HALF_PAST], pa.timestamp("ns")),
        ["2014-10-21T13:00:00", "2014-10-21T14:30:00.500"],
    ),
    "dates as text": (text(), pa.array([date(2014, 10, 21)]), ["2014-10-21"]),
    "moments as numbers": (integer(), pa.array(instants(ONE_PM)), [1_413_896_400]),
}


def spec_of(field: Field, **keys: Any) -> FeatureSpec:
    """A spec of a field of the context, and of the same of the candidates under the name y."""
    fields = field, replace(field, name="y", side="candidate")
    return FeatureSpec(label="click", fields=fields, **keys)


def write_all(path: Path, write: Write, values: pa.Array, **columns: pa.Array) -> Path:
    """A file with the column for both sides, and a label."""
    return write(path, x=values, y=values, click=CLICKS.slice(0, len(values)), **columns)


def write_text(path: Path, values: Sequence[Any]) -> Path:
    """The same rows as text."""
    texts = ["|".join(map(str, v)) if isinstance(v, list) else str(v or "") for v in values]
    rows = [f"{text};{text};{click}\n" for text, click in zip(texts, [1, 0, 1], strict=False)]
    path.write_text("x;y;click\n" + "".join(rows), encoding="utf-8")
    return path


def check(field: Field, parquet: Path, values: list[Any]) -> None:
    """The rows of a file, of a text file and of requests have the same known indices."""
    spec = spec_of(field, delimiter=";")
    frame = read(spec, [parquet])
    vocabulary = learned(spec, frame)
    encoder = Encoder(spec, vocabulary)
    for name, side in (("x", encoder.context), ("y", encoder.candidate)):
        found = encode_side(spec, side, frame)
        asked = encoded_columns(side, {name: values}, len(values))
        np.testing.assert_array_equal(found, asked)
        sent = [row.get(name) for row in json_rows(spec, frame)]
        np.testing.assert_array_equal(encoded_columns(side, {name: sent}, len(values)), asked)
        if isinstance(field, Numeric):
            assert sent == values
        oov = {slot.oov for slot in vocabulary.layout.slots if slot.field == name}
        assert not oov & set(found.ravel().tolist())
        # A text file has no empty list: an empty cell is a missing value.
        if [] not in values:
            plain = read(spec, [write_text(parquet.with_suffix(".csv"), values)])
            np.testing.assert_array_equal(encode_side(spec, side, plain), asked)


@pytest.mark.parametrize("name", CASES)
def test_a_column_means_what_a_request_means(tmp_path: Path, name: str) -> None:
    """A value has one index: from Parquet, from text, from a request; of either side."""
    field, values, sent = CASES[name]
    check(field, write_all(tmp_path / "log.parquet", write_arrow, values), sent)


POLARS: dict[str, tuple[Field, pl.Series, list[Any]]] = {
    "Categorical": (text(), pl.Series(["a", "b", None], dtype=pl.Categorical), ["a", "b", None]),
    "Enum": (text(), pl.Series(["b", "a"], dtype=pl.Enum(["a", "b"])), ["b", "a"]),
    "Decimal": (number(), pl.Series([Decimal("0.10"), None], dtype=pl.Decimal(9, 2)), [0.1, None]),
    "Int128": (integer(), pl.Series([7, U64, None], dtype=pl.Int128), [7, U64, None]),
    "Float16": (number(), pl.Series([1.5, float("nan")], dtype=pl.Float16), [1.5, None]),
    "Binary": (text(), pl.Series([b"a", None]), ["a", None]),
    "Array": (integers(), pl.Series([[1, 2]], dtype=pl.Array(pl.Int8, 2)), [[1, 2]]),
    "List of Enum": (texts(), pl.Series([["a"]], dtype=pl.List(pl.Enum(["a"]))), [["a"]]),
    "Datetime": (BERLIN, pl.Series([ONE_PM], dtype=pl.Datetime("ns")), ["2014-10-21T13:00:00"]),
    "Datetime of a zone": (
        BERLIN,
        pl.Series([ONE_PM], dtype=pl.Datetime("ms", "Asia/Tokyo")),
        ["2014-10-21T13:00:00Z"],
    ),
}


@pytest.mark.parametrize("name", POLARS)
def test_what_polars_writes(tmp_path: Path, name: str) -> None:
    """Types that have no name in Parquet come back as they were, or as plain ones."""
    field, values, sent = POLARS[name]
    clicks = CLICKS.to_pylist()[: len(values)]
    frame = pl.DataFrame({"x": values, "y": values, "click": clicks})
    frame.write_parquet(tmp_path / "log.parquet")
    check(field, tmp_path / "log.parquet", sent)


SPARK: dict[str, tuple[Field, pa.Array, list[Any]]] = {
    "a time": (
        BERLIN,
        pa.array([ONE_PM, HALF_PAST, None], pa.timestamp("us")),
        ["2014-10-21T13:00:00Z", 1_413_901_800, None],
    ),
    "a time with a format": (STAMPED, pa.array([ONE_PM], pa.timestamp("us")), ["14102115"]),
    "far from today": (
        hour(),
        pa.array([datetime(9999, 12, 31, 12), datetime(1600, 2, 29, 1)], pa.timestamp("us")),
        ["9999-12-31T12:00:00", "1600-02-29T01:00:00"],
    ),
    "text": (text(), pa.array([ONE_PM, None], pa.timestamp("us")), ["2014-10-21T13:00:00Z", None]),
    "a list": (
        texts(),
        pa.array([[ONE_PM, HALF_PAST], None], pa.list_(pa.timestamp("us"))),
        [["2014-10-21T13:00:00Z", "2014-10-21T14:30:00.500Z"], None],
    ),
}


@pytest.mark.parametrize("name", SPARK)
@pytest.mark.parametrize("write", [write_spark, write_old_hive])
def test_times_of_spark_and_hive_are_instants(tmp_path: Path, name: str, write: Write) -> None:
    """INT96, and timestamps without a logical type, are instants under any time zone."""
    field, values, sent = SPARK[name]
    if write is write_old_hive:
        # pyarrow gives local times no converted type.
        zoned = pa.timestamp("us", "UTC")
        values = values.cast(pa.list_(zoned) if pa.types.is_list(values.type) else zoned)
    check(field, write_all(tmp_path / "log.parquet", write, values), sent)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_int96_beside_arrows_schema(tmp_path: Path, unit: str, zone: str | None) -> None:
    """pandas and pyarrow write both; the times are those that Spark reads."""
    kind = pa.timestamp(unit, zone)
    moment = pa.array([ONE_PM], kind if zone is None else pa.timestamp(unit, "UTC")).cast(kind)
    for field, values, sent in (
        (BERLIN, moment, ["2014-10-21T13:00:00Z"]),
        (texts(), pa.ListArray.from_arrays([0, 1], moment), [["2014-10-21T13:00:00Z"]]),
    ):
        table = pa.table({"x": values, "y": values, "click": CLICKS.slice(0, 1)})
        pq.write_table(table, tmp_path / "log.parquet", use_deprecated_int96_timestamps=True)
        check(field, tmp_path / "log.parquet", sent)


def test_a_type_that_polars_does_not_know(tmp_path: Path) -> None:
    """Its panic is a message as others are."""
    path = write_all(tmp_path / "log.parquet", write_arrow, pa.array([1]))
    views = pa.array([["a"]], pa.list_view(pa.string()))
    write_all(path, write_arrow, pa.array([1]), views=views)
    with pytest.raises(DataError, match=r"log\.parquet cannot be read as Parquet: not yet impl"):
        read(spec_of(integer()), [path])


def test_kept_times_of_spark_are_instants(tmp_path: Path) -> None:
    """A column that ``predict`` keeps has the time zone that INT96 cannot tell."""
    path = write_all(tmp_path / "log.parquet", write_spark, pa.array([1]), at=pa.array([ONE_PM]))
    [piece] = pieces(spec_of(integer()), path, ["x"], BadLines(), keep=["at", "x"])
    assert piece.frame[KEPT + "at"].to_list() == instants(ONE_PM)
    assert piece.frame[KEPT + "x"].to_list() == [1]


def test_times_of_impala_are_local(tmp_path: Path) -> None:
    """Impala writes local times as INT96, and names itself in the file."""
    path = write_all(tmp_path / "log.parquet", write_impala, pa.array([ONE_PM]))
    check(BERLIN, path, ["2014-10-21T13:00:00"])


@pytest.mark.parametrize(
    ("write", "expected"),
    [(write_spark, [0, 5400]), (write_impala, [0, 5400]), (write_arrow, [0, 5400])],
)
def test_timestamps_of_any_writer_are_moments(
    tmp_path: Path, write: Write, expected: list[int]
) -> None:
    """The column to split by has seconds; without a field's time zone local times are UTC."""
    at = pa.array([ONE_PM, HALF_PAST], pa.timestamp("ns"))
    path = write_all(tmp_path / "log.parquet", write, pa.array([1, 2]), at=at)
    moments = read(spec_of(integer(), timestamp="at"), [path], moment=True)[MOMENT]
    assert (moments - 1_413_896_400).to_list() == expected


def test_typed_timestamps_need_no_format(tmp_path: Path) -> None:
    """A format is for text; of typed moments nothing is lost, although it leaves out minutes."""
    at = pa.array([ONE_PM, HALF_PAST])
    spec = spec_of(integer(), timestamp="at", timestamp_format="%y%m%d%H")
    path = write_all(tmp_path / "log.parquet", write_arrow, pa.array([1, 2]), at=at)
    moments = read(spec, [path], moment=True)[MOMENT]
    assert (moments - 1_413_896_400).to_list() == [0, 5400]


@pytest.mark.parametrize(
    "clicks",
    [
        pa.array([Decimal(1), Decimal(0)], D0),
        pa.array([Decimal("1.00"), Decimal("0.00")], D2),
        pa.array([1, 0], pa.uint8()),
        pa.array([1, 0], pa.uint64()),
        pa.array([1, 0], pa.float16()),
        pa.array(["1", "0"]).dictionary_encode(),
        pa.array([1, 0]).dictionary_encode(),
        pa.array([b"1", b"0"]),
        pa.array([True, False]),
    ],
    ids=lambda clicks: str(clicks.type),
)
def test_labels_of_any_type(tmp_path: Path, clicks: pa.Array) -> None:
    """Snowflake writes every number as DECIMAL, labels too."""
    path = write_arrow(
        tmp_path / "log.parquet", x=pa.array([7, 8]), y=pa.array([7, 8]), click=clicks
    )
    spec = spec_of(integer())
    assert labels(spec, read(spec, [path])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([{"a": 1}] * 3), r"is of type Struct\(.*\), which no field can be"),
        (pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64())), "is of type Map"),
        (pa.array([[["a"]]] * 3), r"is of type List\(List\(String\)\)"),
        (pa.array([time(13)] * 3), "is of type Time"),
        (pa.array([timedelta(hours=1)] * 3), "is of type Duration"),
        (pa.array([b"a", b"\xff", None]), "is of type .* and holds bytes that are not UTF-8"),
        (pa.array([[b"a"], [b"\xff"], None]), "is of type .* and holds bytes that are not UTF-8"),
        (pa.array([date(2014, 10, 21)] * 3), "holds dates .*an integer field takes text, integ"),
        (pa.array([["a"]] * 3), r"holds lists of text \(List\(String\)\), but an integer field"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_what_cannot_be_read_is_said_once(tmp_path: Path, values: pa.Array, message: str) -> None:
    """One message names the column and what it holds; its rows are not bad lines."""
    path = write_all(tmp_path / "log.parquet", write_arrow, values)
    reader = Reader(spec_of(integer()), [path], max_bad_lines=1.0)
    with pytest.raises(DataError, match=rf"log\.parquet: column 'x' {message}"):
        list(reader.frames())
    assert reader.bad.count == 0


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        (
            text(),
            pa.array([1.5, None]),
            'numbers with a fraction .*of dtype = "string" takes text, int',
        ),
        (texts(), pa.array([1]), "integers .* takes text, lists of text"),
        (texts(), pa.array([[1.5]]), "lists of numbers with a fraction"),
        (number(), pa.array([["a"]]), "lists of text .*a numeric field takes text, integers"),
        (hour(), pa.array([[1]]), "lists of integers .*a time field takes"),
    ],
    ids=["text", "list", "values of a list", "number", "time"],
)
def test_a_type_that_a_field_cannot_have(
    tmp_path: Path, field: Field, values: pa.Array, message: str
) -> None:
    """The message says what the field takes."""
    path = write_all(tmp_path / "log.parquet", write_arrow, values)
    with pytest.raises(DataError, match=rf"log\.parquet: column 'x' holds {message}"):
        read(spec_of(field), [path])


def test_types_of_label_and_timestamp(tmp_path: Path) -> None:
    """Columns that are not fields are named too."""
    x, spec = pa.array([1]), spec_of(integer(), timestamp="at")
    path = write_all(tmp_path / "log.parquet", write_arrow, x, at=pa.array([["a"]]))
    with pytest.raises(DataError, match=r"'at' holds lists of text .*the timestamp takes"):
        read(spec, [path], moment=True)
    write_arrow(path, x=x, y=x, click=pa.array([date(2014, 10, 21)]))
    with pytest.raises(DataError, match=r"'click' holds dates .*the label takes text, integers"):
        read(spec, [path])


def test_columns_that_are_not_wanted_may_be_of_any_type(tmp_path: Path) -> None:
    """Columns that the spec does not name are not looked at."""
    path = write_all(
        tmp_path / "log.parquet", write_arrow, pa.array([7]), more=pa.array([{"a": [b"\xff"]}])
    )
    assert read(spec_of(integer()), [path])["x"].to_list() == [7]


def test_nan_is_missing_and_said_once(tmp_path: Path) -> None:
    """However many values are NaN, they are one line; a required field refuses them."""
    nan = float("nan")
    path = write_all(tmp_path / "log.parquet", write_arrow, pa.array([1.5, nan, nan]))
    reader = Reader(spec_of(number()), [path])
    [frame] = reader.frames()
    assert frame["x"].to_list() == [1.5, None, None]
    assert reader.warnings == [
        "column 'x': 2 values are NaN and count as missing",
        "column 'y': 2 values are NaN and count as missing",
    ]
    needed = Numeric(name="x", side="context", required=True)
    with pytest.raises(DataError, match=r"2 of 3 lines(.|\n)*log\.parquet:2: field 'x': required"):
        read(spec_of(needed), [path])


def test_nan_in_a_list_is_a_null_in_it(tmp_path: Path) -> None:
    """Both are refused: a request cannot say them either."""
    path = write_all(tmp_path / "log.parquet", write_arrow, pa.array([[1.0, float("nan")], [2.0]]))
    with pytest.raises(DataError, match=r"log\.parquet:1: field 'x': null inside a list"):
        read(spec_of(integers()), [path])


def test_large_decimals_are_a_bad_line_each(tmp_path: Path) -> None:
    """An integer above 2^64 is a value out of range, as it is in a request."""
    values = pa.array([Decimal(2**64), Decimal(7)], D0)
    path = write_all(tmp_path / "log.parquet", write_arrow, values)
    with pytest.raises(DataError, match=r"1 of 2 lines(.|\n)*:1: field 'x': integer out of range"):
        read(spec_of(integer()), [path])
