"""Real click data beside the repository, laid out as the shipped specs want it.

The data have terms of their own and are no part of the project: where they are absent, what
needs them is skipped.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
SPECS = ROOT / "model" / "specs"


def files(name: str, scratch: Path) -> list[Path]:
    """Return the files of a data set; skip the test where it is not there."""
    match name:
        case "criteo":
            return [_present("criteo_kaggle_10k/train_examples.txt.gz")]
        case "frappe":
            parts = ("train_reconstructed", "valid", "test")
            return [_present(f"frappe_x1/{part}.csv.gz") for part in parts]
        case "open-bandit":
            return [_present("obd_small/random_all.csv.gz")]
        case "movielens-100k":
            return [_movielens(scratch)]
        case "avazu":
            return [_avazu(scratch)]
        case other:
            raise ValueError(other)


def _present(path: str) -> Path:
    if not (DATA / path).is_file():
        pytest.skip(f"real data not found at {DATA / path}")
    return DATA / path


def _movielens(scratch: Path) -> Path:
    """Join ratings, people and films as ``fetch`` does; a click is four stars or five."""

    def read(name: str, separator: str, columns: list[str]) -> pl.DataFrame:
        text = gzip.decompress(_present(f"movielens_100k/{name}.gz").read_bytes()).decode("latin-1")
        rows = [line.split(separator)[: len(columns)] for line in text.splitlines() if line]
        return pl.DataFrame(rows, schema=columns, orient="row")

    kinds = _present("movielens_100k/u.genre").read_text().splitlines()
    genres = [line.split("|")[0] for line in kinds if line]
    ratings = read("u.data", "\t", ["user_id", "item_id", "rating", "time"])
    users = read("u.user", "|", ["user_id", "age", "gender", "occupation", "zip"])
    films = read("u.item", "|", ["item_id", "title", "date", "video", "link", *genres])
    films = films.select(
        "item_id",
        pl.col("date").str.extract(r"(\d{4})$").alias("year"),
        pl.concat_str(
            [pl.when(pl.col(name) == "1").then(pl.lit(name)) for name in genres],
            separator="|",
            ignore_nulls=True,
        ).alias("genres"),
    )
    path = scratch / "ratings.csv"
    ratings.join(users, on="user_id", maintain_order="left").join(
        films, on="item_id", maintain_order="left"
    ).with_columns((pl.col("rating").cast(pl.Int64) >= 4).cast(pl.Int64).alias("click")).drop(
        "rating"
    ).write_csv(path)
    return path


def _avazu(scratch: Path) -> Path:
    """Join the sample's two files and give back what its uploader cut off.

    The hour has lost its date, so all rows get the competition's first day; device_ip is left
    empty.
    """
    features = pl.read_csv(_present("avazu_15k/X_test_xsmall.csv.gz"), infer_schema=False)
    labels = pl.read_csv(_present("avazu_15k/y_test_xsmall.csv.gz"), infer_schema=False)
    path = scratch / "avazu.csv"
    pl.concat([labels, features], how="horizontal").with_columns(
        pl.format("141021{}", pl.col("hour")).alias("hour"),
        pl.lit(None, pl.String).alias("device_ip"),
    ).write_csv(path)
    return path
