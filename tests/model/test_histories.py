"""Histories hold what came strictly before, and nothing else."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.features.spec import FeatureSpec, MultiCategorical
from model.histories import with_histories
from tests.support import realdata

ROWS = pl.DataFrame({
    "click": ["1", "0", "1", "1", "1", "0"],
    "time": ["10", "20", "20", "20", "30", "5"],
    "user_id": ["u", "u", "u", "u", "u", "v"],
    "item_id": ["a", "b", "c", "d", "e", "a"],
})  # fmt: skip


def test_only_what_came_before_counts() -> None:
    """Equal moments are not before each other; what was not clicked is no event; users differ."""
    found = with_histories(ROWS, 50)
    assert found["history"].to_list() == ["", "a", "a", "a", "d|c|a", ""]
    assert found.drop("history").equals(ROWS)


def test_the_latest_are_kept() -> None:
    """A history has at most so many items, the latest first."""
    assert with_histories(ROWS, 2)["history"].to_list()[4] == "d|c"


events = st.tuples(
    st.sampled_from("01"), st.integers(0, 6), st.sampled_from("uvw"), st.integers(1, 9)
)


@given(st.lists(events, max_size=40), st.integers(1, 5))
def test_a_history_is_that_of_the_rows_before(
    rows: list[tuple[str, int, str, int]], most: int
) -> None:
    """Row by row, whatever their order: the clicks of the user with a smaller time."""
    names = ("click", "time", "user_id", "item_id")
    frame = pl.DataFrame(
        [tuple(map(str, row)) for row in rows], schema=dict.fromkeys(names, pl.String), orient="row"
    )
    for (_, time, user, _), found in zip(rows, with_histories(frame, most)["history"], strict=True):
        before = sorted(
            (other for other in enumerate(rows) if other[1][0] == "1" and other[1][1] < time),
            key=lambda other: (other[1][1], other[0]),
        )
        expected = [str(row[3]) for _, row in before if row[2] == user][::-1][:most]
        assert found == "|".join(expected)


@pytest.mark.slow
def test_no_leak_on_real_data(tmp_path: Path) -> None:
    """MovieLens-100k: each event was a click of this user, strictly before the row; none lacks.

    Counted with joins of the whole table, another way than that which made the histories.
    """
    (path,) = realdata.files("movielens-100k", tmp_path)
    ratings = pl.read_csv(path, infer_schema=False)
    rows = with_histories(ratings, 256).with_row_index("row")
    clicks = ratings.filter(pl.col("click") == "1").select(
        "user_id", pl.col("item_id").alias("event"), pl.col("time").cast(pl.Int64).alias("at")
    )
    events = rows.select(
        "row", "user_id", "item_id", pl.col("time").cast(pl.Int64),
        pl.col("history").str.split("|").alias("event"),
    ).explode("event").filter(pl.col("event") != "")  # fmt: skip
    joined = events.join(clicks, on=["user_id", "event"], how="left")
    assert joined["at"].null_count() == 0
    assert (joined["at"] < joined["time"]).all()
    assert (joined["event"] != joined["item_id"]).all()
    counted = (
        rows.select("row", "user_id", pl.col("time").cast(pl.Int64))
        .join(clicks, on="user_id")
        .filter(pl.col("at") < pl.col("time"))
        .group_by("row")
        .agg(pl.len().clip(upper_bound=256).alias("expected"))
    )
    lengths = events.group_by("row").agg(pl.len().alias("found"))
    both = counted.join(lengths, on="row", how="full", coalesce=True)
    assert both.filter(pl.col("expected") != pl.col("found")).height == 0
    assert both.height > 80_000


def test_the_shipped_spec_reads_what_fetch_writes(tmp_path: Path) -> None:
    """The list has the name and the separator of the file, and attends to the film."""
    spec = FeatureSpec.load(realdata.SPECS / "movielens-100k-histories.toml")
    (history,) = [field for field in spec.fields if field.name == "history"]
    assert isinstance(history, MultiCategorical)
    assert (history.attends, history.separator, history.max_values) == ("item_id", "|", 50)
