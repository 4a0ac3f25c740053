"""A bundle scores files offline as its export has measured it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from model.data.log_files import DataError
from model.result_places import ResultError
from model.score_files import Offline
from tests.support.parquet import write_spark
from tests.support.samples import FIELDS, Sample

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
