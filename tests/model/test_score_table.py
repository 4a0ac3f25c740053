"""The table of scores: parts become one file, or nothing does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model.result_places import ResultError
from model.score_table import require_table_name, score_table
from tests.support.disks import files_limited_to

PARTS = 40


def part(number: int) -> pl.DataFrame:
    """A small part, of values that do not compress."""
    draw = np.random.default_rng(number)
    return pl.DataFrame(
        {"line": range(number * 100, number * 100 + 100), "score": draw.random(100)}
    )


def write(path: Path) -> None:
    """Write all parts."""
    with score_table(path) as table:
        for number in range(PARTS):
            table.add(part(number))


@pytest.mark.parametrize("name", ["x.parquet", "x", "x.csv", "x.tsv"])
def test_parts_become_one_file_in_their_order(tmp_path: Path, name: str) -> None:
    """Whatever the format; what was there is replaced, and nothing else is left."""
    path = tmp_path / name
    path.write_text("older")
    write(path)
    if path.suffix in (".csv", ".tsv"):
        found = pl.read_csv(path, separator="," if path.suffix == ".csv" else "\t")
    else:
        found = pl.read_parquet(path)
    assert found.equals(pl.concat(map(part, range(PARTS))))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x.parquet", "x.csv"])
def test_room_for_the_parts_alone_is_not_enough(tmp_path: Path, name: str) -> None:
    """The whole file meets the limit that no part does: the system's reason, not polars'."""
    path = tmp_path / name
    path.write_text("older")
    with files_limited_to(16 * 1024), pytest.raises(ResultError) as caught:
        write(path)
    assert str(caught.value) == f"{path} cannot be written: File too large"
    assert (path.read_text(), list(tmp_path.iterdir())) == ("older", [path])


def test_an_error_between_parts_leaves_nothing(tmp_path: Path) -> None:
    """A table that is not finished is not there."""

    def fail() -> None:
        with score_table(tmp_path / "x.parquet") as table:
            table.add(part(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_name_says_the_format() -> None:
    """Endings in any case; no ending is Parquet; others are refused."""
    for name in ("x.parquet", "x.PQ", "x", "x.csv", "x.TSV", "x.y.csv"):
        require_table_name(Path(name))
    for name in ("x.json", "x.csv.gz", "x.xlsx"):
        with pytest.raises(ResultError, match="unknown ending"):
            require_table_name(Path(name))
