"""Click logs are read by their ending, a bounded number of lines at a time."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from app.features.spec import Categorical, FeatureSpec
from model.data import log_files
from model.data.log_files import FILE, LINE, BadLines, DataError, pieces

FIELDS = (
    Categorical(name="user", side="context", dtype="integer"),
    Categorical(name="item", side="candidate"),
)
SPEC = FeatureSpec(label="click", fields=FIELDS)
WANTED = ("user", "item", "click")
FRAME = pl.DataFrame({"user": ["7", "8"], "item": ["a", "b"], "click": ["1", "0"]})


def write(path: Path) -> Path:
    """Write the rows in the form that the file's ending names."""
    endings = path.name.lower().split(".")[1:]
    if endings[0] == "parquet":
        FRAME.write_parquet(path)
        return path
    text = FRAME.write_csv(separator="," if endings[0] == "csv" else "\t").encode()
    path.write_bytes(gzip.compress(text) if endings[-1] == "gz" else text)
    return path


@pytest.mark.parametrize("compressed", ["", ".gz", ".GZ", ".Gz"])
@pytest.mark.parametrize("ending", [".csv", ".CSV", ".Csv", ".tsv", ".TSV", ".txt", ".TXT"])
def test_text_is_known_by_its_ending_in_any_case(
    tmp_path: Path, ending: str, compressed: str
) -> None:
    """Exports of Windows programs end in capitals."""
    path = write(tmp_path / f"log{ending}{compressed}")
    [piece] = pieces(SPEC, path, WANTED, BadLines())
    assert piece.frame.drop(FILE, LINE).equals(FRAME)


@pytest.mark.parametrize("ending", [".parquet", ".PARQUET", ".Parquet"])
def test_parquet_is_known_by_its_ending_in_any_case(tmp_path: Path, ending: str) -> None:
    """A Parquet file is not taken for text."""
    [piece] = pieces(SPEC, write(tmp_path / f"log{ending}"), WANTED, BadLines())
    assert piece.frame.drop(FILE, LINE).equals(FRAME)


def test_an_ending_that_is_unknown_is_shown_as_it_is(tmp_path: Path) -> None:
    """The error has the file's own spelling."""
    (tmp_path / "log.Data").write_text("user,item,click\n")
    with pytest.raises(DataError, match=r"log\.Data: unknown ending '\.Data'"):
        list(pieces(SPEC, tmp_path / "log.Data", WANTED, BadLines()))


def test_a_piece_names_its_file_and_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces come in order, with the lines that an editor shows and how far they reach."""
    monkeypatch.setattr(log_files, "_BYTES_AT_ONCE", 1)
    path = write(tmp_path / "log.csv")
    one, two = pieces(SPEC, path, WANTED, BadLines())
    assert [one.frame[LINE].to_list(), two.frame[LINE].to_list()] == [[2], [3]]
    assert one.frame[FILE].to_list() == ["log.csv"]
    assert 0 < one.bytes <= two.bytes == path.stat().st_size


def test_bad_lines_are_counted_beside_the_good_ones(tmp_path: Path) -> None:
    """The total is that of all lines; the first bad ones are shown with what is wrong."""
    path = tmp_path / "log.csv"
    path.write_text("user,item,click\n7,a,1\n8,b\n9,c,0\n")
    bad = BadLines()
    [piece] = pieces(SPEC, path, WANTED, bad)
    assert piece.frame[LINE].to_list() == [2, 4]
    assert (bad.count, bad.total) == (1, 3)
    assert bad.lines == [("log.csv", 3, "2 values, expected 3")]
