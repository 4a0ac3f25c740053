"""Parquet files as other programs write them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_LOGICAL_TYPE, _UNKNOWN_FIELD = b"\x4c", b"\x5c"
"""Headers of a schema element's field 10, its logical type, and of one that no reader knows."""
_INSTANT = b"\x8c\x11\x1c"
"""The beginning of the logical type of an instant."""


def write_spark(path: Path, **columns: pa.Array) -> Path:
    """Write columns as Spark does: timestamps are INT96, and Arrow's own schema is absent."""
    pq.write_table(
        pa.table(columns), path, use_deprecated_int96_timestamps=True, store_schema=False
    )
    return path


def write_impala(path: Path, **columns: pa.Array) -> Path:
    """Write columns as Impala does, whose INT96 are local times."""
    content = write_spark(path, **columns).read_bytes()
    program = b"parquet-cpp-arrow version "
    assert content.count(program) == 1
    path.write_bytes(content.replace(program, b"impala version 4.5.0      "))
    return path


def write_old_hive(path: Path, **columns: pa.Array) -> Path:
    """Write instants as programs before logical types do: a converted type is all they have."""
    pq.write_table(pa.table(columns), path, store_schema=False)
    content = path.read_bytes()
    assert _LOGICAL_TYPE + _INSTANT in content
    path.write_bytes(content.replace(_LOGICAL_TYPE + _INSTANT, _UNKNOWN_FIELD + _INSTANT))
    return path


def write_arrow(path: Path, **columns: pa.Array) -> Path:
    """Write columns as pandas, polars' pyarrow engine, Snowflake's and DuckDB's exports do."""
    pq.write_table(pa.table(columns), path)
    return path
