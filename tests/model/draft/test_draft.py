"""Files of any kind become a spec that reads them without a bad line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.features.spec import FeatureSpec
from model.data.errors import DataError
from model.draft import look as looking
from model.draft.draft import Draft, draft
from model.draft.look import look_at
from tests.support.frames import read

ROWS = 400
NUMBERS = np.random.default_rng(11)
USER = NUMBERS.integers(0, 40, ROWS)
FRAME = pl.DataFrame(
    {
        "click": NUMBERS.integers(0, 2, ROWS),
        "user": USER,
        "country": [("DE", "FR", "NA")[user % 3] for user in USER],
        "time": [f"2026-03-{1 + row // 20:02d}T{row % 24:02d}:00:00Z" for row in range(ROWS)],
        "item": NUMBERS.integers(0, 30, ROWS),
        "tags": [("a|b", "b", "c|a")[row % 3] for row in range(ROWS)],
        "price": NUMBERS.random(ROWS).round(3),
    }
)


def drafted(path: Path, *more: Path, context: tuple[str, ...] = ("user",), **options: Any) -> Draft:
    """A draft of files with the label ``click``."""
    return draft(look_at([path, *more], "click", progress=False, **options), context)


def spec_of(found: Draft) -> FeatureSpec:
    """The spec as its file says it."""
    spec = FeatureSpec.parse(found.text())
    assert spec == found.spec
    return spec


def write_json(path: Path) -> None:
    """The rows as JSON lines, lists as lists."""
    rows = FRAME.with_columns(pl.col("tags").str.split("|")).to_dicts()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


WRITERS = {
    "log.csv": lambda path: FRAME.write_csv(path),
    "log.tsv": lambda path: FRAME.write_csv(path, separator="\t"),
    "log.csv.gz": lambda path: path.write_bytes(gzip.compress(FRAME.write_csv().encode())),
    "semicolons.csv": lambda path: FRAME.write_csv(path, separator=";"),
    "log.parquet": lambda path: FRAME.with_columns(
        pl.col("tags").str.split("|"), pl.col("time").str.to_datetime(time_zone="UTC")
    ).write_parquet(path),
    "log.jsonl": write_json,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_fields(name: str, tmp_path: Path) -> None:
    """CSV, TSV, Parquet and JSON lines of the same rows give the same kinds and sides."""
    WRITERS[name](tmp_path / name)
    spec = spec_of(drafted(tmp_path / name))
    assert spec.timestamp == "time"
    assert {field.name: (field.__struct_config__.tag, field.side) for field in spec.fields} == {
        "user": ("categorical", "context"),
        "country": ("categorical", "context"),
        "time": ("time", "context"),
        "item": ("categorical", "candidate"),
        "tags": ("multi_categorical", "candidate"),
        "price": ("numeric", "candidate"),
    }
    assert spec.delimiter == (";" if name.startswith("semi") else None)
    assert read(spec, [tmp_path / name], moment=True).height == ROWS


def test_files_without_a_header_are_named(tmp_path: Path) -> None:
    """The names are in the spec, as the trainer needs them."""
    FRAME.write_csv(tmp_path / "log.csv", include_header=False)
    spec = spec_of(drafted(tmp_path / "log.csv", columns=FRAME.columns))
    assert spec.columns == tuple(FRAME.columns)
    assert read(spec, [tmp_path / "log.csv"]).height == ROWS


def test_large_files_are_looked_at_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample is spread over all files, the rows are counted, and both are told."""
    monkeypatch.setattr("model.data.text_log._BYTES_AT_ONCE", 2_000)
    for number in range(3):
        FRAME.write_csv(tmp_path / f"{number}.csv")
    paths = [tmp_path / f"{number}.csv" for number in range(3)]
    look = look_at(paths, "click", sample_rows=300, progress=False)
    assert look.rows == 3 * ROWS
    assert 200 < look.frame.height < 500
    assert set(look.frame[looking.FILE]) == {"0.csv", "1.csv", "2.csv"}
    found = draft(look, ["user"])
    assert "a sample of" in found.text()
    assert any("--sample-rows" in line for line in found.warnings())


def test_comments_tell_what_was_seen(tmp_path: Path) -> None:
    """A table of all columns, what was left out, the span of time, the reason of each side."""
    frame = FRAME.with_columns(
        pl.lit("x").alias("constant"),
        pl.col("click").alias("leak"),
        pl.int_range(pl.len()).alias("row"),
    )
    frame.write_csv(tmp_path / "log.csv")
    found = drafted(tmp_path / "log.csv")
    text = found.text()
    for line in (
        "#   constant: constant",
        "#   leak: it tells the label: AUC alone 1.000",
        "#   row: unique in each row",
        'side = "context"  # the same in all rows of user',
        'side = "candidate"  # it varies within the rows of user',
        "2026-03-01 00:00 to 2026-03-20 23:00",
        '# if these mean that the value is missing, name them in null_values: "NA"',
    ):
        assert line in text
    assert {line.partition(":")[0] for line in found.left_out()} == {"constant", "leak", "row"}


def test_columns_without_a_name_or_named_twice_are_left_out(tmp_path: Path) -> None:
    """An index column of pandas has no name."""
    lines = [",click,a,a,b,c", *(f"{n},{n % 2},1,2,{n % 3},{n % 5}" for n in range(200))]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    found = drafted(tmp_path / "log.csv", context=("b",))
    assert found.unusable == {
        "": "column 1 has no name", "a": "its name is in the header more than once",
    }  # fmt: skip
    assert "column 1 has no name" in found.left_out()
    assert "#   column 1 has no name" in found.text().splitlines()
    assert read(spec_of(found), [tmp_path / "log.csv"]).height == 200


def test_columns_without_a_name_are_told_by_their_places(tmp_path: Path) -> None:
    """Several have one name, none."""
    lines = ["a,,click,b,", *(f"{n % 7},1,{n % 2},{n % 5},x" for n in range(200))]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    found = drafted(tmp_path / "log.csv", context=("b",))
    assert found.left_out() == ["column 2 has no name, and column 5 has no name"]


def test_without_a_key_the_advice_is_an_option(tmp_path: Path) -> None:
    """The end of the output says what wrong sides lead to, and what to give."""
    frame = FRAME.select("click", pl.col("user").alias("p"), pl.col("item").alias("q"))
    frame.write_csv(tmp_path / "log.csv")
    [told] = [each for each in drafted(tmp_path / "log.csv", context=()).warnings() if "p" in each]
    assert told.startswith("the sides of p, q are guesses, and /rank refuses a field on the wrong")
    assert "the item's id with --candidate" in told
    assert not drafted(tmp_path / "log.csv", context=("p",)).warnings()


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        ("click,a,b\n", {}, "there are no rows"),
        ("klick,a,b\n1,2,3\n", {}, "--label: there is no column 'click'; did you mean 'klick'?"),
        ("click,a,b\n7,2,3\n", {"context": ("a",)}, "label 'click' is neither 0 nor 1"),
        ("click,a,b\n1,2,3\n", {"context": ("c",)}, "--context: there is no column 'c'"),
        ("click,a,b\n1,2,3\n", {"context": ("click",)}, "--context: 'click' is the label"),
        ("click,a,b\n1,2,3\n0,2,3\n", {"context": ()}, "'a': constant"),
    ],
)
def test_what_cannot_be_a_spec_is_an_error(
    text: str, options: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    """The message names the option or the columns."""
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        drafted(tmp_path / "log.csv", **options)
    assert problem in str(caught.value)


def test_a_column_of_both_sides_is_an_error(tmp_path: Path) -> None:
    """It cannot be the user's and the item's."""
    FRAME.write_csv(tmp_path / "log.csv")
    look = look_at([tmp_path / "log.csv"], "click", progress=False)
    with pytest.raises(DataError, match="'user' is named by --context and by --candidate"):
        draft(look, ["user"], ["user"])


CELLS = st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]), max_size=6)
VALUES = st.one_of(
    CELLS,
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.sampled_from(["", "NA", "null", "true", "1e400", "007", "2026-01-01", "20141021", "a|b"]),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(CELLS.filter(lambda name: name != "click"), min_size=1, max_size=4),
    rows=st.lists(st.lists(VALUES, min_size=4, max_size=4), min_size=1, max_size=30),
)
def test_any_csv_is_read_by_its_spec(
    names: list[str], rows: list[list[str]], tmp_path: Path
) -> None:
    """A spec never refuses a row that it was made from, whatever names and values hold."""
    path = tmp_path / "log.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["click", *names])
        for number, row in enumerate(rows):
            out.writerow([number % 2, *row[: len(names)]])
    try:
        found = drafted(path, context=())
    except DataError:
        return
    spec = spec_of(found)
    timed = spec.timestamp is not None
    assert read(spec, [path], moment=timed).height == found.look.rows
