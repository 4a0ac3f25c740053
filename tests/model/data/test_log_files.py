"""Click logs are read by their ending, a bounded number of lines at a time."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest
from polars import selectors as cs

from app.features.spec import Categorical, FeatureSpec
from model.data import text_log
from model.data.bad_lines import BadLines
from model.data.errors import DataError
from model.data.log_files import pieces, visible
from model.data.wanted_columns import FILE, LINE

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
    if {"parquet", "parq", "pq"} & set(endings):
        FRAME.write_parquet(path)
        return path
    text = FRAME.write_csv(separator="," if endings[0] == "csv" else "\t").encode()
    path.write_bytes(gzip.compress(text) if endings[-1] in ("gz", "gzip") else text)
    return path


@pytest.mark.parametrize("compressed", ["", ".gz", ".GZ", ".Gz", ".gzip"])
@pytest.mark.parametrize("ending", [".csv", ".CSV", ".Csv", ".tsv", ".TSV", ".txt", ".TXT"])
def test_text_is_known_by_its_ending_in_any_case(
    tmp_path: Path, ending: str, compressed: str
) -> None:
    """Exports of Windows programs end in capitals."""
    path = write(tmp_path / f"log{ending}{compressed}")
    [piece] = pieces(SPEC, path, WANTED, BadLines())
    assert piece.frame.drop(FILE, LINE).equals(FRAME)


@pytest.mark.parametrize("ending", [
    ".parquet", ".PARQUET", ".Parquet", ".pq", ".PQ", ".parq", ".parquet.gzip", ".parquet.gz",
    ".PARQUET.GZIP", ".parquet.snappy", ".snappy.parquet", ".gz.parquet", ".pq.zstd",
])  # fmt: skip
def test_parquet_is_known_by_its_ending_in_any_case(tmp_path: Path, ending: str) -> None:
    """A Parquet file is not taken for text."""
    [piece] = pieces(SPEC, write(tmp_path / f"log{ending}"), WANTED, BadLines())
    assert piece.frame.drop(FILE, LINE).equals(FRAME)


@pytest.mark.parametrize("name", ["log[1].parquet", "log*.parquet", "user=9/log.parquet"])
def test_a_name_is_not_a_pattern(tmp_path: Path, name: str) -> None:
    """Browsers number what they save; a directory of one partition gives no column."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    FRAME.clear().write_parquet(tmp_path / "log1.parquet")
    [piece] = pieces(SPEC, write(path), WANTED, BadLines())
    assert piece.frame.drop(FILE, LINE).equals(FRAME)


def test_an_ending_that_is_unknown_is_shown_as_it_is(tmp_path: Path) -> None:
    """The error has the file's own spelling."""
    (tmp_path / "log.Data").write_text("user,item,click\n")
    with pytest.raises(DataError, match=r"log\.Data: unknown ending '\.Data'"):
        list(pieces(SPEC, tmp_path / "log.Data", WANTED, BadLines()))


def test_a_piece_names_its_file_and_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces come in order, with the lines that an editor shows and how far they reach."""
    monkeypatch.setattr(text_log, "_BYTES_AT_ONCE", 1)
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


def rows(path: Path, spec: FeatureSpec = SPEC) -> list[tuple[str, ...]]:
    """The values of a file's rows."""
    frames = [piece.frame.select(WANTED) for piece in pieces(spec, path, WANTED, BadLines())]
    return pl.concat(frames).rows()


@pytest.mark.parametrize("compressed", ["", ".gz"])
@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"], ids=["CR", "CRLF", "LF"])
@pytest.mark.parametrize("last", [True, False], ids=["ended", "open"])
def test_any_line_end_is_one(tmp_path: Path, end: str, last: bool, compressed: str) -> None:
    """Excel on a Macintosh ends lines in a carriage return alone; line numbers are the same."""
    content = end.join(["user,item,click", "7,a,1", '8,"é,""",0']) + end * last
    path = tmp_path / f"log.csv{compressed}"
    path.write_bytes(gzip.compress(content.encode()) if compressed else content.encode())
    [piece] = pieces(SPEC, path, WANTED, BadLines())
    assert piece.frame.select(WANTED).rows() == [("7", "a", "1"), ("8", 'é,"', "0")]
    assert piece.frame[LINE].to_list() == [2, 3]


def test_a_long_file_of_carriage_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read in pieces as others are."""
    monkeypatch.setattr(text_log, "_BYTES_AT_ONCE", 1000)
    path = tmp_path / "log.csv"
    path.write_bytes(b"user,item,click\r" + b"7,a,1\r" * 50_000)
    found = list(pieces(SPEC, path, WANTED, BadLines()))
    assert sum(piece.frame.height for piece in found) == 50_000
    assert len(found) > 100


def test_a_carriage_return_inside_a_line_is_text(tmp_path: Path) -> None:
    """Where lines end in LF, a value may have one; wherever the file is cut for a look."""
    path = tmp_path / "log.csv"
    path.write_bytes(b"user,item,click\n7,a\rb,1\n")
    assert rows(path) == [("7", "a\rb", "1")]
    names = b"user,item,click," + b"x" * (2**16 - 17)
    path.write_bytes(names + b"\r\n7,a,1,\r\n")
    [piece] = pieces(SPEC, path, WANTED, BadLines())
    assert piece.frame.select(*WANTED, LINE).rows() == [("7", "a", "1", 2)]


@pytest.mark.parametrize("delimiter", ["::", "¦", "||", "||,", "\u2063", "🦆", "\x1f", "ab", " "])
@pytest.mark.parametrize("item", ["a", "é|", "\x1f\x1e", '"'])
def test_a_delimiter_of_any_length(tmp_path: Path, delimiter: str, item: str) -> None:
    """MovieLens has "::"; in quotes a delimiter is text, in the header too."""
    spec = FeatureSpec(
        label="click",
        fields=(*FIELDS, Categorical(name=f"x{delimiter}", side="context")),
        delimiter=delimiter,
    )
    wanted = (*WANTED, f"x{delimiter}")
    quoted = f"{delimiter}{item}{delimiter}"
    lines = [
        ["user", "item", "click", f'"x{delimiter}"'],
        ["7", "é", "1", '"' + quoted.replace('"', '""') + '"'],
        ["8", "b", "0", ""],
    ]
    path = tmp_path / "log.data"
    path.write_text("".join(delimiter.join(line) + "\n" for line in lines), encoding="utf-8")
    [piece] = pieces(spec, path, wanted, BadLines())
    assert piece.frame.select(cs.by_name(*wanted)).rows() == [
        ("7", "é", "1", quoted),
        ("8", "b", "0", None),
    ]


def test_lines_of_another_width_are_bad_under_a_long_delimiter(tmp_path: Path) -> None:
    """Half a delimiter is text."""
    spec = FeatureSpec(label="click", fields=FIELDS, delimiter="::", columns=WANTED)
    path = tmp_path / "ratings.dat"
    path.write_text("7::a:b::1\n8::a\n9::a::0::\n")
    bad = BadLines()
    [piece] = pieces(spec, path, WANTED, bad)
    assert piece.frame.select(WANTED).rows() == [("7", "a:b", "1")]
    assert [problem for _, _, problem in bad.lines] == [
        "2 values, expected 3",
        "4 values, expected 3",
    ]


@pytest.mark.parametrize("columns", [None, WANTED], ids=["header", "columns"])
def test_a_byte_order_mark_is_no_part_of_a_value(
    tmp_path: Path, columns: tuple[str, ...] | None
) -> None:
    """Excel writes one before the header, or before the first value where there is no header."""
    spec = FeatureSpec(label="click", fields=FIELDS, columns=columns)
    path = tmp_path / "log.csv"
    header = "" if columns else "user,item,click\n"
    path.write_text(f"{header}7,a,1\n", encoding="utf-8-sig")
    assert rows(path, spec) == [("7", "a", "1")]


def test_an_absent_column_is_told_beside_those_that_are_there(tmp_path: Path) -> None:
    """Another delimiter is named; a comment or UTF-16 can be seen in the message, which stays
    short."""
    path = tmp_path / "log.csv"
    path.write_text("user;item;click\n7;a;1\n")
    with pytest.raises(DataError, match=r"'user' is absent, as names are separated by ';' there"):
        rows(path)
    path.write_text("# user,item\nuser,item,click\n7,a,1\n")
    with pytest.raises(DataError, match=r"'user' is absent; the columns are '# user', 'item'"):
        rows(path)
    path.write_text(",".join(f"column{number}" for number in range(1000)))
    with pytest.raises(DataError, match=r"'column0', .*…$") as caught:
        rows(path)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("ending", [".csv.zst", ".csv.bz2", ".tsv.XZ", ".zip"])
@pytest.mark.parametrize("delimiter", [None, ","])
def test_other_compressions_are_told(tmp_path: Path, ending: str, delimiter: str | None) -> None:
    """A delimiter would not make them readable."""
    path = tmp_path / f"log{ending}"
    path.write_bytes(b"compressed")
    with pytest.raises(DataError, match="another program than gzip: decompress it"):
        rows(path, FeatureSpec(label="click", fields=FIELDS, delimiter=delimiter))


def empty_files(directory: Path) -> list[Path]:
    """Files without a row, as jobs that share their work leave them."""
    contents = {
        "bytes.csv": b"",
        "header.csv": b"user,item,click\n",
        "header-without-end.csv": b"user,item,click",
        "mark.csv": b"\xef\xbb\xbf",
        "bytes.csv.gz": b"",
        "packed.csv.gz": gzip.compress(b""),
        "packed-header.csv.gz": gzip.compress(b"user,item,click\n"),
        "frame.csv": b"\n",
        "bytes.parquet": b"",
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    FRAME.clear().write_parquet(directory / "rows.parquet")
    pl.DataFrame().write_parquet(directory / "columns.parquet")
    return sorted(directory.iterdir())


def test_files_without_rows_have_no_pieces(tmp_path: Path) -> None:
    """They are no error of their own."""
    for path in empty_files(tmp_path):
        assert list(pieces(SPEC, path, WANTED, BadLines())) == []


def test_markers_beside_parts_are_not_visible() -> None:
    """Spark, Hadoop and Delta begin the names of what holds no rows with _ or a dot."""
    names = ["_SUCCESS", "part-0.csv", "._SUCCESS.crc", ".part-0.csv.crc", "_delta_log", "a_b.csv"]
    assert visible([Path("day=_1") / name for name in names]) == [
        Path("day=_1/part-0.csv"),
        Path("day=_1/a_b.csv"),
    ]
