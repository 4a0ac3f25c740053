"""Real click data beside the repository, laid out as the shipped specs want it.

The data have terms of their own and are no part of the project: where they are absent, what
needs them is skipped.
"""

from __future__ import annotations

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
        case "avazu":
            return [_avazu(scratch)]
        case other:
            raise ValueError(other)


def _present(path: str) -> Path:
    if not (DATA / path).is_file():
        pytest.skip(f"real data not found at {DATA / path}")
    return DATA / path


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
