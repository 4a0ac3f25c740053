"""JSON lines mean what they mean in a request."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from app.features.encoder import Encoder
from app.features.spec import FeatureSpec
from model.data import log_files
from model.data.bad_lines import BadLines
from model.data.encode import encode_side
from model.data.errors import DataError
from model.data.log_files import pieces
from model.data.reader import Reader, labels
from model.data.values import json_rows
from model.data.wanted_columns import FILE, KEPT, LINE
from tests.support.frames import learned, read
from tests.support.samples import SPEC as SAMPLE_SPEC
from tests.support.samples import Sample

SPEC = FeatureSpec.parse(SAMPLE_SPEC, "sample")
GOOD: dict[str, Any] = {"click": 1, "placement": "top"}


def write(path: Path, *lines: dict[str, Any] | str | bytes) -> Path:
    """Write lines, objects as JSON; gzipped if the name says so."""
    texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    content = b"".join(
        (text if isinstance(text, bytes) else text.encode()) + b"\n" for text in texts
    )
    packed = path.suffix.lower() in (".gz", ".gzip")
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.mark.parametrize("ending", [
    ".jsonl", ".ndjson", ".JSONL", ".Ndjson", ".jsonl.gz", ".NDJSON.GZ", ".jsonl.gzip",
])  # fmt: skip
def test_lines_are_known_by_the_ending_in_any_case(tmp_path: Path, ending: str) -> None:
    """A byte order mark and empty lines are passed over; numbers count as an editor shows."""
    path = write(tmp_path / f"log{ending}", b'\xef\xbb\xbf{"user_id": 7, "click": 1}', "", "  ",
                 {"user_id": 8, "click": 0, "other": {}})  # fmt: skip
    [piece] = pieces(SPEC, path, ["user_id", "click"], BadLines())
    assert piece.frame[LINE].to_list() == [1, 4]
    assert piece.frame[FILE].to_list() == [path.name] * 2
    assert piece.frame["user_id"].to_list() == [b"7", b"8"]


def test_a_log_of_objects_is_the_log_as_csv(sample: Sample, tmp_path: Path) -> None:
    """The same vocabulary, rows and labels, and the same rows as a caller sends them."""
    lines = [
        {**row, "click": int(text.rsplit(",", 1)[1])}
        for row, text in zip(
            sample.rows, sample.data.read_text(encoding="utf-8").splitlines()[1:], strict=True
        )
    ]
    path = write(tmp_path / "log.jsonl.gz", *lines)
    as_csv, as_json = read(SPEC, [sample.data]), read(SPEC, [path])
    assert as_json[LINE].to_list() == [line - 1 for line in as_csv[LINE]]
    mine, expected = learned(SPEC, as_json), learned(SPEC, as_csv)
    assert mine.layout == expected.layout
    for side in ("context", "candidate"):
        np.testing.assert_array_equal(
            encode_side(SPEC, getattr(Encoder(SPEC, mine), side), as_json),
            encode_side(SPEC, getattr(Encoder(SPEC, expected), side), as_csv),
        )
    assert labels(SPEC, as_json).tolist() == labels(SPEC, as_csv).tolist()
    assert json_rows(SPEC, as_json) == sample.rows


VALUES: list[tuple[str, Any, str | None]] = [
    ("user_id", 2**64 - 1, None),
    ("user_id", -(2**63), None),
    ("user_id", 2**53 + 1, None),
    ("user_id", "12", None),
    ("user_id", 12.0, None),
    ("user_id", None, None),
    ("user_id", "\\N", None),
    ("user_id", 2**64, "integer out of range"),
    ("user_id", 1.5, "expected an integer, got a number with a fraction"),
    ("user_id", True, "expected an integer, got a boolean"),
    ("user_id", [1], "expected an integer, got a list"),
    ("user_id", {"a": 1}, "expected an integer, got an object"),
    ("country", 'a,b|c"d\n', None),
    ("country", 7, None),
    ("tags", ["a|b", "c"], None),
    ("tags", [], None),
    ("tags", "a|b", "expected a list"),
    ("tags", ["a", None], "null inside a list"),
    ("price", 3, None),
    ("price", 1e-45, None),
    ("price", "3", "expected a number, got text"),
    ("price", 1e39, "number out of range"),
    ("time", 1_700_000_000.5, None),
    ("time", "2023-11-14T22:13:20Z", None),
    ("time", "tomorrow", "expected seconds"),
]


@pytest.mark.parametrize(("name", "value", "problem"), VALUES)
def test_a_value_means_what_it_means_in_a_request(
    tmp_path: Path, name: str, value: Any, problem: str | None
) -> None:
    """The encoder of requests gives the same row, or the same problem, and the line is named."""
    path = write(tmp_path / "log.jsonl", GOOD, {**GOOD, name: value})
    reader = Reader(SPEC, [path], max_bad_lines=1.0)
    frame = pl.concat(reader.frames())
    encoder = Encoder(SPEC, learned(SPEC, frame))
    if problem is not None:
        assert frame[LINE].to_list() == [1]
        [(_, line, told)] = reader.bad.lines
        assert line == 2
        assert told.startswith(f"field {name!r}")
        assert problem in told
        return
    for side in (encoder.context, encoder.candidate):
        row = {key: each for key, each in {**GOOD, name: value}.items() if key in side.fields}
        assert encode_side(SPEC, side, frame)[1].tobytes() == side.row(row)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[1]", "Expected `object`, got `array`"),
        ("null", "Expected `object`, got `null`"),
        (b'{"x": "\xff"}', "not UTF-8"),
        ('{"price": NaN}', "not JSON"),
        ('{"price": 1e400}', "Number out of range"),
        ('{"x": ' + "[" * 100_000, "nested too deeply"),
        ('{"a": 1}{"b": 2}', "not JSON"),
    ],
)
def test_a_bad_line_is_counted_and_named(tmp_path: Path, line: str | bytes, problem: str) -> None:
    """The lines around it are read."""
    path = write(tmp_path / "log.jsonl", GOOD, line, GOOD)
    reader = Reader(SPEC, [path], max_bad_lines=0.5)
    assert pl.concat(reader.frames())[LINE].to_list() == [1, 3]
    assert (reader.bad.count, reader.bad.total) == (1, 3)
    [(file, number, told)] = reader.bad.lines
    assert (file, number) == ("log.jsonl", 2)
    assert problem in told
    with pytest.raises(DataError, match="1 of 3 lines are bad"):
        list(Reader(SPEC, [path]).frames())


def test_a_file_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line numbers go on, and positions tell how far it is."""
    monkeypatch.setattr(log_files, "_JSON_BYTES_AT_ONCE", 100)
    path = write(tmp_path / "log.jsonl", *[GOOD] * 50)
    found = list(pieces(SPEC, path, ["click"], BadLines()))
    assert len(found) > 5
    assert [n for piece in found for n in piece.frame[LINE]] == list(range(1, 51))
    assert found[-1].bytes == path.stat().st_size


def test_kept_columns_are_text(tmp_path: Path) -> None:
    """As those of other text files; what is no text is JSON."""
    values = ["é", 7, [1, "a"], None, 1.5]
    path = write(tmp_path / "log.jsonl", *({**GOOD, "x": value} for value in values))
    [piece] = pieces(SPEC, path, ["click"], BadLines(), keep=["x"])
    assert piece.frame[KEPT + "x"].to_list() == ["é", "7", '[1,"a"]', None, "1.5"]


def test_a_field_that_no_line_has_is_a_warning(tmp_path: Path) -> None:
    """No header says that it is there; the label must be in every line."""
    path = write(tmp_path / "log.jsonl", {**GOOD, "age": 3}, GOOD)
    reader = Reader(SPEC, [path])
    frame = pl.concat(reader.frames())
    assert labels(SPEC, frame).tolist() == [1, 1]
    told = [line for line in reader.warnings if "no line of JSON" in line]
    assert len(told) == len(SPEC.fields) - 2
    assert not any("'age'" in line or "'placement'" in line for line in told)
    unlabelled = write(tmp_path / "none.jsonl", {"placement": "top"})
    with pytest.raises(DataError, match=r"none\.jsonl:1: label 'click' is neither 0 nor 1"):
        list(Reader(SPEC, [unlabelled]).frames())
    with pytest.raises(DataError, match=r"cannot read .*absent\.jsonl"):
        Reader(SPEC, [tmp_path / "absent.jsonl"]).require_columns()
