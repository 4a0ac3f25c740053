"""Counts of values are the same, however rows are cut and counts are merged."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from app.features.spec import Categorical, FeatureSpec, MultiCategorical, Numeric, Time
from model.cluster.places import ThisProcess
from model.data import value_counts
from model.data.frames_on_disk import FrameFile, FramesOnDisk, write_frame
from model.data.value_counts import COUNT, KEY, LARGE, MergedCounts, count_rows, fractions_of

SPEC = FeatureSpec(
    label="click",
    fields=(
        Categorical(name="text", side="context", min_count=2),
        Categorical(name="number", side="context", dtype="integer", min_count=1),
        MultiCategorical(name="tags", side="candidate", max_values=2, min_count=1),
        Numeric(name="price", side="candidate"),
        Numeric(name="given", side="candidate", encoding="edges", edges=(1.0,)),
        Time(name="at", side="context", parts=("hour", "weekday")),
    ),
)
TEXT, NUMBER, TAGS, PRICE, GIVEN, HOUR, WEEKDAY = range(7)
ROWS = 400


@pytest.fixture
def rows() -> pl.DataFrame:
    """Rows with values of every kind, the largest and the smallest integers among them."""
    random = np.random.default_rng(4)
    special = ["-9223372036854775808", "18446744073709551615", "9223372036854775808", "-1", "0"]
    return pl.DataFrame({
        "text": [
            ["", "é", "a", "b", None][n] if n < 5 else f"w{n}" for n in random.zipf(1.3, ROWS) % 90
        ],
        "number": [special[n] if n < 5 else str(n) for n in random.integers(0, 60, ROWS)],
        "tags": [f"{n}|{n + 1}|{n + 2}" for n in random.integers(0, 30, ROWS)],
        "price": [
            [0.0, -0.0, 1e30][n] if n < 3 else round(n / 7, 2)
            for n in random.integers(0, 50, ROWS)
        ],
        "given": [1.5] * ROWS,
        "at": random.integers(0, 10**9, ROWS).astype(str),
    })  # fmt: skip


def counted(tmp_path: Path, rows: pl.DataFrame, step: int, mib: int = 1024) -> MergedCounts:
    """Count rows that lie in frames of ``step`` rows; every third row is one to train on."""
    files = []
    for start in range(0, rows.height, step):
        path = tmp_path / f"frame-{start}.parquet"
        write_frame(path, rows[start : start + step])
        files.append(FrameFile(path, min(step, rows.height - start)))
    parts = tmp_path / "part"
    parts.write_bytes(bytes(n % 3 for n in range(rows.height)))
    directory = tmp_path / "counts"
    directory.mkdir()
    return count_rows(SPEC, FramesOnDisk(files), parts, directory, frozenset(), ThisProcess(mib))


def integers(found: MergedCounts, slot: int) -> dict[int, int]:
    """The counts of a slot's integers."""
    lines = found.lines("numbers", slot).select(KEY, LARGE, COUNT)
    return {key + 2**64 if large else key: n for key, large, n in lines.iter_rows()}


def texts(found: MergedCounts, slot: int) -> dict[str, int]:
    """The counts of a slot's texts."""
    return dict(found.lines("texts", slot).select(KEY, COUNT).iter_rows())


@pytest.mark.parametrize(
    ("step", "fan_in", "lines"),
    [(400, 32, 4_096), pytest.param(7, 3, 40, marks=pytest.mark.slow), (9, 32, 4_096)],
)
def test_counts_are_those_of_the_rows(
    tmp_path: Path, rows: pl.DataFrame, monkeypatch: pytest.MonkeyPatch,
    step: int, fan_in: int, lines: int,
) -> None:  # fmt: skip
    """In one frame or many, merged at once or by a deep tree in many spans of buckets."""
    monkeypatch.setattr(value_counts, "FAN_IN", fan_in)
    monkeypatch.setattr(value_counts, "_LINES_OF_MIB", lines)
    found = counted(tmp_path, rows, step, 1 if fan_in == 3 else 1024)
    spans = {path.name.split("-")[3] for path in (tmp_path / "counts").glob("merged-*")}
    assert (len(spans) > 4) == (fan_in == 3)
    train = rows[::3]
    frequent: Counter[Any] = Counter(value for value in train["text"] if value)
    assert texts(found, TEXT) == {key: n for key, n in frequent.items() if n >= 2}
    assert integers(found, NUMBER) == Counter(map(int, train["number"]))
    tags = Counter(tag for value in train["tags"] for tag in value.split("|")[:2])
    assert texts(found, TAGS) == dict(tags)
    known, n = fractions_of(found.lines("numbers", PRICE))
    expected = np.unique(train["price"].to_numpy().astype(np.float32) + 0, return_counts=True)
    np.testing.assert_array_equal(known, expected[0])
    np.testing.assert_array_equal(n, expected[1])
    assert not np.signbit(known).any(), "two zeros are one"
    assert found.lines("numbers", GIVEN).height == 0
    assert sum(integers(found, HOUR).values()) == train.height
    assert set(integers(found, WEEKDAY)) <= set(range(7))


def test_what_was_counted_is_not_counted_again(
    tmp_path: Path, rows: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither frames nor merges whose files are there."""
    first = counted(tmp_path, rows, 50)
    lines = first.lines("texts", TEXT).sort(KEY)

    def refuse(*_: object) -> None:
        raise AssertionError("it was counted again")

    monkeypatch.setattr(value_counts, "count_values", refuse)
    monkeypatch.setattr(value_counts, "_write", refuse)
    (tmp_path / "counts").rename(tmp_path / "kept")
    with pytest.raises(AssertionError, match="counted again"):
        counted(tmp_path, rows, 50)
    for path in (tmp_path / "counts").iterdir():
        path.unlink()
    (tmp_path / "counts").rmdir()
    monkeypatch.setattr(Path, "mkdir", lambda self: (tmp_path / "kept").rename(self))
    assert counted(tmp_path, rows, 50).lines("texts", TEXT).sort(KEY).equals(lines)
