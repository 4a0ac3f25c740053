"""The footer of a Parquet file tells which of its times are instants."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from model.data.parquet_footer import instant_columns, int96_columns
from tests.support.parquet import write_arrow, write_impala, write_old_hive, write_spark

LOCAL = pa.array([datetime(2014, 10, 21, 13)])
INSTANT = LOCAL.cast(pa.timestamp("us", "UTC"))
TABLE = {
    "a": pa.array([{"b": {"c": 1, "at": datetime(2014, 1, 1)}, "d": [1]}]),
    "at": LOCAL,
    "list": pa.array([[{"e": datetime(2014, 1, 1)}]]),
    "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
    "né": LOCAL,
    "last": pa.array([1]),
}


def test_int96_is_found_wherever_it_stands(tmp_path: Path) -> None:
    """In columns, in structs and in lists, by the column's own name."""
    path = write_spark(tmp_path / "log.parquet", **TABLE)
    assert int96_columns(path) == instant_columns(path) == {"a", "at", "list", "né"}


def test_impalas_int96_are_local(tmp_path: Path) -> None:
    """The program is named at the end of the footer."""
    path = write_impala(tmp_path / "log.parquet", **TABLE)
    assert int96_columns(path) == {"a", "at", "list", "né"}
    assert instant_columns(path) == set()


@pytest.mark.parametrize("unit", ["ms", "us"])
def test_converted_types_are_instants(tmp_path: Path, unit: str) -> None:
    """Without a logical type a timestamp is an instant, by the format's definition."""
    at = INSTANT.cast(pa.timestamp(unit, "UTC"))
    path = write_old_hive(tmp_path / "log.parquet", x=pa.array([1]), at=at, more=LOCAL)
    assert instant_columns(path) == {"at"}
    assert int96_columns(path) == set()


def test_logical_types_say_it_themselves(tmp_path: Path) -> None:
    """polars reads them as they are meant."""
    path = write_arrow(tmp_path / "log.parquet", at=INSTANT, local=LOCAL)
    assert instant_columns(path) == set()
    pl.DataFrame({"at": [datetime(2014, 1, 1)]}).write_parquet(path)
    assert instant_columns(path) == set()


@pytest.mark.parametrize("columns", [1, 14, 15, 16, 3000])
def test_wide_files(tmp_path: Path, columns: int) -> None:
    """However many columns, each has its place."""
    table = {f"c{number}": pa.array([number]) for number in range(columns)}
    path = write_spark(tmp_path / "log.parquet", **table, at=LOCAL)
    assert int96_columns(path) == {"at"}


def test_an_extension_of_a_later_format_is_passed_over(tmp_path: Path) -> None:
    """Such fields have the number 32767, which Thrift writes in its long form."""
    content = write_arrow(tmp_path / "log.parquet", at=INSTANT, x=pa.array([1])).read_bytes()
    size = int.from_bytes(content[-8:-4], "little")
    logical_type, extension = b"\x4c\x8c\x11\x1c", b"\x0c\xfe\xff\x03\x8c\x11\x1c"
    footer = content[-8 - size : -8].replace(logical_type, extension)
    assert len(footer) == size + 3
    path = tmp_path / "later.parquet"
    path.write_bytes(content[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert instant_columns(path) == {"at"}
