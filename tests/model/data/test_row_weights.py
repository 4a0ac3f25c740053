"""The weights of rows, from a column of the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from app.errors import SpecError
from app.features.encoder import Encoder
from app.features.spec import FeatureSpec
from model.data.encode import encode
from model.data.errors import DataError
from model.data.reader import Reader
from model.data.row_weights import row_weights
from tests.support.frames import learned

SPEC = FeatureSpec.parse("""
label = "click"
weight = "value"
[[fields]]
name = "user"
kind = "categorical"
side = "context"
[[fields]]
name = "item"
kind = "categorical"
side = "candidate"
""")
GOOD = ["1", "0.5", "1e3", "2.0", "1000000000"]
BAD = ["", "0", "-1", "x", "NaN", "inf", "1e10"]


def write(path: Path, weights: list[str]) -> Path:
    lines = [f"u{number % 2},i{number},{number % 2},{each}" for number, each in enumerate(weights)]
    path.write_text("\n".join(["user,item,click,value", *lines]) + "\n")
    return path


def test_weights_are_read_as_numbers(tmp_path: Path) -> None:
    (frame,) = Reader(SPEC, [write(tmp_path / "log.csv", GOOD)]).frames()
    assert row_weights(SPEC, frame).tolist() == [float(np.float32(float(each))) for each in GOOD]
    vocabulary = learned(SPEC, frame)
    data = encode(SPEC, Encoder(SPEC, vocabulary), frame)
    assert data.weight is not None
    assert data.weight.tolist() == row_weights(SPEC, frame).tolist()
    part = data.take(np.array([3, 1])).weight
    assert part is not None
    assert part.tolist() == [2.0, 0.5]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_what_is_no_weight_is_a_bad_line(tmp_path: Path, kind: str) -> None:
    """It is named with its line; the others are read, and have their weights in every format."""
    path = tmp_path / f"log.{kind}"
    if kind == "csv":
        write(path, GOOD + BAD)
        expected = len(GOOD)
    else:
        values = [1, 2.5, None, -3.0, 0.0]
        rows = [
            {"user": "u", "item": "i", "click": n % 2, "value": value}
            for n, value in enumerate(values)
        ]
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pl.DataFrame(rows, strict=False).write_parquet(path)
        expected = 2
    reader = Reader(SPEC, [path], max_bad_lines=1.0)
    (frame,) = reader.frames()
    assert frame.height == expected
    told = "\n".join(reader.warnings)
    assert "weight 'value'" in told
    assert "above 0" in told or "missing" in told
    with pytest.raises(DataError, match="weight 'value'"):
        list(Reader(SPEC, [path]).frames())


def test_a_log_without_the_column_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,click\nu,i,1\n")
    with pytest.raises(DataError, match="value"):
        list(Reader(SPEC, [tmp_path / "log.csv"]).frames())
    (frame,) = Reader(SPEC, [tmp_path / "log.csv"], label=False).frames()
    assert frame.height == 1, "what is only scored needs none"


def test_a_weight_makes_no_value_frequent(tmp_path: Path) -> None:
    """``min_count`` counts rows: an item of one row is OOV, whatever it weighs."""
    (frame,) = Reader(SPEC, [write(tmp_path / "log.csv", ["1", "1000", "1", "1"])]).frames()
    vocabulary = learned(SPEC, frame)
    encoder = Encoder(SPEC, vocabulary)
    item = next(slot for slot in vocabulary.layout.slots if slot.name == "item")
    assert np.frombuffer(encoder.candidate.row({"item": "i1"}), np.int32)[0] == item.oov


@pytest.mark.parametrize("name", ["user", "click", "when"])
def test_the_column_has_no_other_meaning(name: str) -> None:
    text = f"""
label = "click"
timestamp = "when"
weight = "{name}"
[[fields]]
name = "user"
kind = "categorical"
side = "context"
[[fields]]
name = "item"
kind = "categorical"
side = "candidate"
"""
    with pytest.raises(SpecError, match=f"the weight '{name}' must not be"):
        FeatureSpec.parse(text)
