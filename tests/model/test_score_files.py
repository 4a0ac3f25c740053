"""A bundle scores files offline as its export has measured it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from model.data.errors import DataError
from model.data.stored_files import StoredFiles
from model.result_places import ResultError
from model.score_files import Offline
from tests.support.disks import files_limited_to
from tests.support.parquet import write_spark
from tests.support.samples import FIELDS, Sample, candidate_of, context_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def offline(tiny_bundle: Path) -> Offline:
    """The bundle that all tests share, opened."""
    return Offline.open(tiny_bundle)


def test_a_part_measures_as_the_manifest_says(offline: Offline, sample: Sample) -> None:
    """The files of training, cut again, give the same figures."""
    found = offline.evaluate(offline.frames([sample.data], "test"))
    assert found.to_dict() == pytest.approx(offline.bundle.manifest.metrics["test"], abs=1e-6)


def test_scores_are_written_for_every_line(
    offline: Offline, sample: Sample, tmp_path: Path
) -> None:
    """File, line, logit, score and version, in the order of the file."""
    out = tmp_path / "scores.parquet"
    assert offline.predict([sample.data], out, 0.0) == len(sample.rows)
    found = pl.read_parquet(out)
    assert found.columns == ["file", "line", "logit", "score", "version"]
    assert found["line"].to_list() == list(range(2, len(sample.rows) + 2))
    assert found["version"].unique().to_list() == [offline.bundle.version]
    expected = 1 / (1 + np.exp(-found["logit"].to_numpy().astype(np.float64)))
    np.testing.assert_allclose(found["score"].to_numpy(), expected, rtol=1e-5)
    assert list(tmp_path.iterdir()) == [out], "nothing is left beside it"


def test_rows_that_have_only_ids_score_as_whole_ones(
    offline: Offline, sample: Sample, tmp_path: Path
) -> None:
    """Values of items and users come from files of their own; figures are the same too."""
    rows = list(enumerate(sample.rows))
    items = write_json(tmp_path / "items.jsonl", [{"n": n, **candidate_of(row)} for n, row in rows])
    users = write_json(tmp_path / "users.jsonl", [{"m": n, **context_of(row)} for n, row in rows])
    clicks = sample.data.read_text(encoding="utf-8").splitlines()[1:]
    lines = [{"n": n, "m": n, "click": line[-1], "time": sample.rows[n]["time"]}
             for n, line in enumerate(clicks)]  # fmt: skip
    log = write_json(tmp_path / "log.jsonl", lines)
    stored = [StoredFiles("item", [items], "n"), StoredFiles("profile", [users], "m")]
    mine, whole = tmp_path / "mine.parquet", tmp_path / "whole.parquet"
    assert offline.predict([log], mine, 0.0, ["click"], stored) == len(rows)
    offline.predict([sample.data], whole, 0.0, ["click"])
    columns = ["click", "logit", "score"]
    assert pl.read_parquet(mine)[columns].equals(pl.read_parquet(whole)[columns])
    figures = offline.evaluate(offline.frames([log], stored=stored))
    assert figures.to_dict() == offline.evaluate(offline.frames([sample.data])).to_dict()
    with pytest.raises(ResultError, match=r"items\.jsonl"):
        offline.predict([log], items, 0.0, stored=stored)


def write_json(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_other_files_have_no_part(offline: Offline, sample: Sample, tmp_path: Path) -> None:
    """A split is that of the files that it was made of."""
    other = tmp_path / "other.csv"
    other.write_bytes(sample.data.read_bytes() + b"\n")
    with pytest.raises(DataError, match="not the files that this bundle was trained on"):
        list(offline.frames([other], "test"))


@pytest.mark.parametrize(
    ("name", "problem"), [("", "it is a directory"), ("no/scores.parquet", "there is no directory")]
)
def test_a_result_that_has_no_place_is_told_first(
    offline: Offline, sample: Sample, tmp_path: Path, name: str, problem: str
) -> None:
    """Before hours of scoring."""
    with pytest.raises(ResultError, match=problem):
        offline.predict([sample.data], tmp_path / name, 0.0)


def test_a_bad_line_leaves_no_result(offline: Offline, sample: Sample, tmp_path: Path) -> None:
    """The file is there whole or not at all."""
    data = tmp_path / "data.csv"
    data.write_bytes(sample.data.read_bytes() + b"one,two\n")
    with pytest.raises(DataError, match="1 of 3001 lines are bad"):
        offline.predict([data], tmp_path / "scores.parquet", 0.0)
    assert list(tmp_path.iterdir()) == [data]


def test_a_table_of_spark_and_snowflake_scores_as_the_text_does(
    offline: Offline, sample: Sample, tmp_path: Path
) -> None:
    """Every column of another type: each row keeps its score, the whole its figures."""
    rows = sample.rows
    columns = {name: [row.get(name) for row in rows] for name in FIELDS}
    number = pa.decimal128(38, 0)
    words = pa.dictionary(pa.int32(), pa.string())
    nan = float("nan")
    table = {
        "user_id": pa.array(
            [None if u is None else Decimal(u) for u in columns["user_id"]], number
        ),
        "country": pa.array(columns["country"]).cast(words),
        "time": pa.array(columns["time"], pa.timestamp("s")).cast(pa.timestamp("us")),
        "age": pa.array([nan if age is None else age for age in columns["age"]], pa.float32()),
        "placement": pa.array([text.encode() for text in columns["placement"]]),
        "item_id": pa.array(columns["item_id"], pa.uint64()),
        "tags": pa.array(columns["tags"]).cast(pa.list_(words)),
        "price": pa.array([None if p is None else Decimal(str(p)) for p in columns["price"]]),
        "quality": pa.array(columns["quality"]),
        "click": pa.array([Decimal(str(click)) for click in pl.read_csv(sample.data)["click"]]),
    }
    text, typed = tmp_path / "text.parquet", tmp_path / "typed.parquet"
    data = write_spark(tmp_path / "data.parquet", **table)
    offline.predict([sample.data], text, 0.0)
    offline.predict([data], typed, 0.0)
    logits = [pl.read_parquet(path)["logit"].to_list() for path in (text, typed)]
    assert logits[0] == logits[1]
    found, expected = (offline.evaluate(offline.frames([path])) for path in (data, sample.data))
    assert found == expected


NAMES = ["file", "line", "logit", "score", "version"]


def test_kept_columns_lie_beside_the_scores(
    offline: Offline, sample: Sample, tmp_path: Path
) -> None:
    """Label, an id that no field has, and a field, from CSV and TSV as text; the scores are those
    without them.
    """
    lines = sample.data.read_text().splitlines()
    header = ["request", *lines[0].split(",")]
    rows = [[f"r{number:04}", *line.split(",")] for number, line in enumerate(lines[1:])]
    offline.predict([sample.data], tmp_path / "plain.parquet", 0.0)
    plain = pl.read_parquet(tmp_path / "plain.parquet")
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        data, out = tmp_path / f"log{suffix}", tmp_path / f"scores{suffix}.parquet"
        data.write_text("\n".join(delimiter.join(row) for row in [header, *rows]) + "\n")
        offline.predict([data], out, 0.0, ["request", "click", "user_id", "request"])
        found = pl.read_parquet(out)
        assert found.columns == [*NAMES[:2], "request", "click", "user_id", *NAMES[2:]]
        assert found["request"].to_list() == [row[0] for row in rows]
        assert found["click"].to_list() == [row[-1] for row in rows]
        assert found["user_id"].to_list() == [row[1] or None for row in rows]
        assert found.select("line", "logit", "score").equals(plain.select("line", "logit", "score"))


def test_rows_that_are_left_out_shift_no_kept_value(
    offline: Offline, sample: Sample, tmp_path: Path
) -> None:
    """Lines with too few values, or a wrong one, have no score; the others keep their own ids."""
    header, *lines = sample.data.read_text().splitlines()
    lines = [f"{line},id{number + 2}" for number, line in enumerate(lines)]
    lines[0] = "cut"
    lines[7] = lines[7].replace(lines[7].split(",")[0], "no-number", 1)
    lines[2_000] = "cut,too"
    data, out = tmp_path / "log.csv", tmp_path / "scores.parquet"
    data.write_text("\n".join([f"{header},id", *lines]) + "\n")
    assert offline.predict([data], out, 0.1, ["id"]) == len(lines) - 3
    found = pl.read_parquet(out)
    assert found["id"].to_list() == [f"id{line}" for line in found["line"]]
    assert not {2, 9, 2_002} & set(found["line"])


def typed(sample: Sample) -> pl.DataFrame:
    """The sample as a typed table, with columns of many types that no field has."""
    frame = pl.read_csv(sample.data, infer_schema_length=None).head(200)
    number = pl.int_range(pl.len())
    return frame.with_columns(
        number.cast(pl.UInt8).alias("small"),
        number.cast(pl.Decimal(20, 2)).alias("money"),
        pl.when(number % 3 > 0).then(number * 0.5).alias("ratio"),
        pl.when(number % 5 > 0).then(pl.lit(float("nan"))).alias("nan"),
        (number % 2 == 0).alias("shown"),
        pl.lit(b"\xff\x00").alias("digest"),
        pl.concat_list(number, number + 1).alias("positions"),
        pl.struct(number.alias("x")).alias("nested"),
        pl.datetime(2014, 10, 21, time_unit="us", time_zone="Europe/Berlin").alias("at"),
        pl.date(2014, 10, 21).alias("day"),
        pl.duration(hours=1).alias("lasting"),
        pl.time(13, 5).alias("clock"),
        pl.lit(None).alias("nothing"),
        pl.lit("a").cast(pl.Categorical).alias("group"),
    )  # fmt: skip


def test_types_of_parquet_are_kept(offline: Offline, sample: Sample, tmp_path: Path) -> None:
    """Integers, decimals, nulls, NaN, booleans, bytes, lists, structs, times, dictionaries; fields
    have the type of the file, not that of encoding.
    """
    frame = typed(sample)
    frame.write_parquet(tmp_path / "log.parquet")
    keep = [name for name in frame.columns if name not in ("time", "tags")]
    out = tmp_path / "scores.parquet"
    offline.predict([tmp_path / "log.parquet"], out, 0.0, keep)
    found = pl.read_parquet(out)
    written = pl.read_parquet(tmp_path / "log.parquet").select(keep)
    assert found.select(keep).schema == written.schema
    assert found.select(keep).equals(written)


def test_files_of_several_types_go_together(
    offline: Offline, sample: Sample, tmp_path: Path
) -> None:
    """A column that is narrower in one part has the wider type; one that cannot be is told."""
    frame = typed(sample)
    for name, kind in (("a", pl.Int8), ("b", pl.Int64), ("c", pl.List(pl.Int64))):
        column = pl.lit(7).cast(pl.Int64)
        column = pl.concat_list(column) if name == "c" else column.cast(kind)
        frame.with_columns(column.alias("key")).write_parquet(tmp_path / f"{name}.parquet")
    out = tmp_path / "scores.parquet"
    offline.predict([tmp_path / "a.parquet", tmp_path / "b.parquet"], out, 0.0, ["key"])
    assert pl.read_parquet(out)["key"].to_list() == [7] * 400
    assert pl.read_parquet_schema(out)["key"] == pl.Int64
    out.unlink()
    with pytest.raises(ResultError, match="the kept columns of the files do not match"):
        offline.predict([tmp_path / "a.parquet", tmp_path / "c.parquet"], out, 0.0, ["key"])
    assert not out.exists()


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
def test_scores_are_written_as_text_too(
    offline: Offline, sample: Sample, tmp_path: Path, suffix: str, separator: str
) -> None:
    """The same table by the ending of its name, each value quoted where it must be."""
    frame = typed(sample).with_columns(pl.lit('a "b",\tc\nd').alias("note"))
    frame.write_parquet(tmp_path / "log.parquet")
    keep = ["small", "money", "ratio", "shown", "note", "at", "day", "clock", "nothing", "group"]
    offline.predict([tmp_path / "log.parquet"], tmp_path / "x.parquet", 0.0, keep)
    out = tmp_path / f"x{suffix}"
    offline.predict([tmp_path / "log.parquet"], out, 0.0, keep)
    wanted = pl.read_parquet(tmp_path / "x.parquet")
    found = pl.read_csv(out, separator=separator, schema_overrides={"logit": pl.Float32,
                        "score": pl.Float32})  # fmt: skip
    assert found.columns == wanted.columns
    for name in ("file", "line", "note", "logit", "score", "version", "ratio", "shown"):
        assert found[name].to_list() == wanted[name].to_list()
    for name in ("positions", "nested", "digest", "lasting"):
        with pytest.raises(ResultError, match=rf"'{name}' is of type .* name a \.parquet file"):
            offline.predict([tmp_path / "log.parquet"], out, 0.0, [name])
    assert found.equals(pl.read_csv(out, separator=separator, schema=found.schema))


def test_an_unknown_ending_is_told_first(offline: Offline, tmp_path: Path) -> None:
    """Before the data are looked at, which are not there."""
    with pytest.raises(ResultError, match=r"unknown ending '\.json'; \.parquet, \.csv and \.tsv"):
        offline.predict([tmp_path / "absent.csv"], tmp_path / "scores.json", 0.0)


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        (
            ["click", "usr_id"],
            DataError,
            r"--keep: \S+: column 'usr_id' is absent.*mean 'user_id'",
        ),
        (["request"], DataError, "'request' is absent; the columns are 'user_id', 'country', "),
        (["click", "score"], ResultError, r"--keep: 'score' is a column of the result \(file, "),
        (["logit"], ResultError, "'logit' is a column of the result"),
        (["line"], ResultError, "'line' is a column of the result"),
    ],
)
def test_a_column_that_cannot_be_kept_is_told(
    offline: Offline, sample: Sample, tmp_path: Path, keep: list[str], error: type[Exception],
    message: str,
) -> None:  # fmt: skip
    """Unknown ones with a near name, or all that there are; those of the result are refused. In
    Parquet and in text.
    """
    typed(sample).write_parquet(tmp_path / "log.parquet")
    for data in (sample.data, tmp_path / "log.parquet"):
        with pytest.raises(error, match=message):
            offline.predict([data], tmp_path / "scores.parquet", 0.0, keep)
    assert not (tmp_path / "scores.parquet").exists()


def test_files_of_one_name_can_be_told_apart(
    offline: Offline, sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have their paths as they were given; another file has its name. Messages, too."""
    monkeypatch.chdir(tmp_path)
    lines = sample.data.read_text().splitlines()[:11]
    paths = [Path("a/part-0.csv"), Path("b/part-0.csv"), Path("b/part-1.csv")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    offline.predict(paths, Path("scores.parquet"), 0.0)
    files = pl.read_parquet("scores.parquet")["file"].to_list()
    assert files == ["a/part-0.csv"] * 10 + ["b/part-0.csv"] * 10 + ["part-1.csv"] * 10
    with pytest.raises(DataError, match=r"a/part-0\.csv is given twice"):
        offline.predict([paths[0], paths[2], Path("./a/part-0.csv")], Path("x.parquet"), 0.0)
    paths[1].write_text("\n".join([*lines, "cut"]) + "\n")
    with pytest.raises(DataError, match=r"\n  b/part-0\.csv:12: 1 values, expected"):
        offline.predict(paths, Path("scores.parquet"), 0.0)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_scores_without_room_are_told(
    offline: Offline, sample: Sample, tmp_path: Path, suffix: str
) -> None:
    """The line names the file and the reason; what was there stays, and nothing is beside it."""
    out = tmp_path / f"scores{suffix}"
    out.write_text("older")
    for limit in (4_096, 20_480):
        with files_limited_to(limit), pytest.raises(ResultError) as caught:
            offline.predict([sample.data], out, 0.0, ["time", "user_id", "price"])
        assert str(caught.value) == f"{out} cannot be written: File too large"
    assert (out.read_text(), list(tmp_path.iterdir())) == ("older", [out])


def test_rows_of_a_part_without_room_are_told(
    offline: Offline, sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``evaluate --part`` keeps the rows for a while: the line names the place and the reason."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with files_limited_to(4_096), pytest.raises(DataError) as caught:
        list(offline.frames([sample.data], "test"))
    assert str(caught.value).startswith(f"the rows could not be kept in {tmp_path}/ctr-")
    assert ": File too large; TMPDIR in the environment names another place" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
