"""Click logs in files: what is read, what is refused and where it says so, and the split."""

from __future__ import annotations

import gzip
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from app.features.canonical import integer_key
from app.features.field_encoders import field_encoder
from app.features.spec import Categorical, FeatureSpec, Field, MultiCategorical, Numeric, Time
from model.data import log_files, text_log
from model.data.bad_lines import BadLines
from model.data.errors import DataError
from model.data.frames_on_disk import FrameFile, FramesOnDisk, write_frame
from model.data.reader import MOMENT, Reader, labels
from model.data.values import field_values
from model.data.wanted_columns import FILE, LINE
from tests.support.frames import learned, read

FIELDS: tuple[Field, ...] = (
    Categorical(name="user", side="context", dtype="integer"),
    Categorical(name="item", side="candidate"),
    MultiCategorical(name="tags", side="candidate"),
    Numeric(name="price", side="candidate"),
)
SPEC = FeatureSpec(label="click", fields=FIELDS)
HEADER = "click,user,item,tags,price\n"
ROWS = ["1,7,a,x|y,1.5", "0,8,b,,", "1,7,é,z,-2e3"]
TIMED = FeatureSpec(label="click", timestamp="at", fields=FIELDS[:2])


def write(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text(header + "".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    return path


def values(frame: pl.DataFrame, name: str) -> list[Any]:
    """A column's values as JSON would hold them, row by row."""
    (field,) = (field for field in FIELDS if field.name == name)
    found, codes = field_values(field, frame[name])
    return [found[code] for code in codes]


def read_with_bad(path: Path, max_bad_lines: float) -> tuple[pl.DataFrame, BadLines]:
    """The good rows of a file, and what is known of the bad lines."""
    reader = Reader(SPEC, [path], max_bad_lines)
    return pl.concat(reader.frames()), reader.bad


def check(table: pl.DataFrame) -> None:
    """The table holds ROWS."""
    assert values(table, "user") == ["7", "8", "7"]
    assert values(table, "item") == ["a", "b", "é"]
    assert values(table, "tags") == [["x", "y"], None, ["z"]]
    assert values(table, "price") == [1.5, None, -2000.0]
    assert labels(SPEC, table).tolist() == [1, 0, 1]


def test_csv(tmp_path: Path) -> None:
    """A comma-separated file with a header gives the columns of the spec."""
    check(read(SPEC, [write(tmp_path / "log.csv", *ROWS)]))


@pytest.mark.parametrize("ending", [".tsv", ".txt"])
def test_tab_separated(tmp_path: Path, ending: str) -> None:
    """Files of tabs know no quotes: a quote is text like any other."""
    lines = [row.replace(",", "\t").replace("é", '"é') for row in ROWS]
    table = read(SPEC, [write(tmp_path / f"log{ending}", *lines, header=HEADER.replace(",", "\t"))])
    assert values(table, "item") == ["a", "b", '"é']


def test_delimiter_of_the_spec(tmp_path: Path) -> None:
    """The spec's delimiter goes before the file's ending."""
    spec = FeatureSpec(label="click", fields=FIELDS, delimiter=";")
    lines = [row.replace(",", ";") for row in ROWS]
    check(read(spec, [write(tmp_path / "log.data", *lines, header=HEADER.replace(",", ";"))]))


def test_unknown_ending_is_named(tmp_path: Path) -> None:
    """Without a known ending or a delimiter the error says what to do."""
    with pytest.raises(DataError, match=r"log\.data: unknown ending '\.data'.*`delimiter`"):
        read(SPEC, [write(tmp_path / "log.data", *ROWS)])


@pytest.mark.parametrize("name", ["day", "day.parquet"])
def test_a_directory_is_no_file(tmp_path: Path, name: str) -> None:
    """Parts that another program has written into a directory are to be named one by one."""
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=rf"{name} is a directory: name the files in it"):
        read(SPEC, [tmp_path / name])


def test_gzip(tmp_path: Path) -> None:
    """A compressed file is read by the ending before ``.gz``."""
    plain = write(tmp_path / "log.csv", *ROWS)
    packed = tmp_path / "packed.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    check(read(SPEC, [packed]))


@pytest.mark.parametrize("content", [b"", b"no gzip at all"])
def test_damaged_gzip_is_named(tmp_path: Path, content: bytes) -> None:
    """A file that is no gzip is a DataError with its name."""
    path = tmp_path / "log.csv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"log\.csv\.gz"):
        read(SPEC, [path])


def test_truncated_gzip_is_named(tmp_path: Path) -> None:
    """A compressed file that ends too early is a DataError with its name."""
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "\n".join(ROWS * 100)).encode())[:-12])
    with pytest.raises(DataError, match=r"log\.csv\.gz"):
        read(SPEC, [path])


def test_headerless(tmp_path: Path) -> None:
    """With ``columns`` the first line is data, line 1."""
    spec = FeatureSpec(label="click", fields=FIELDS, columns=("click", "user", "item", "tags",
                                                              "price"))  # fmt: skip
    path = write(tmp_path / "log.csv", *ROWS, header="")
    table = read(spec, [path])
    check(table)
    assert table[LINE].to_list() == [1, 2, 3]


def test_columns_by_name(tmp_path: Path) -> None:
    """Order does not matter, and columns that the spec does not name are passed over."""
    lines = [f"{row.split(',', 1)[1]},junk,{row[0]}" for row in ROWS]
    header = "user,item,tags,price,other,click\n"
    check(read(SPEC, [write(tmp_path / "log.csv", *lines, header=header)]))


def test_several_files(tmp_path: Path) -> None:
    """Files of several kinds go together, each with its own lines and its own hash."""
    first = write(tmp_path / "a.csv", *ROWS[:2])
    second = write(tmp_path / "b.csv", ROWS[2])
    reader = Reader(SPEC, [first, second])
    table = pl.concat(reader.frames())
    check(table)
    assert table[FILE].to_list() == ["a.csv", "a.csv", "b.csv"]
    assert table[LINE].to_list() == [2, 3, 2]
    assert [(s.name, s.rows, s.bytes) for s in reader.sources] == [
        ("a.csv", 2, first.stat().st_size),
        ("b.csv", 1, second.stat().st_size),
    ]


def test_parquet(tmp_path: Path) -> None:
    """Typed columns are values as they are."""
    frame = pl.DataFrame({
        "price": [1.5, None, -2000.0], "user": [7, 8, 7], "item": ["a", "b", "é"],
        "tags": [["x", "y"], None, ["z"]], "click": [True, False, True], "other": [1, 2, 3],
    })  # fmt: skip
    frame.write_parquet(tmp_path / "log.parquet")
    table = read(SPEC, [tmp_path / "log.parquet"])
    assert values(table, "user") == [7, 8, 7]
    assert values(table, "tags") == [["x", "y"], None, ["z"]]
    assert labels(SPEC, table).tolist() == [1, 0, 1]


def test_parquet_text_is_text(tmp_path: Path) -> None:
    """Text columns, dictionary-encoded ones too, are read like the cells of a text file."""
    text = pl.read_csv(write(tmp_path / "log.csv", *ROWS), infer_schema=False)
    text.with_columns(pl.all().cast(pl.Categorical)).write_parquet(tmp_path / "log.parquet")
    check(read(SPEC, [tmp_path / "log.parquet"]))


def test_what_is_no_parquet_is_named(tmp_path: Path) -> None:
    """A damaged Parquet file is a DataError with its name."""
    (tmp_path / "log.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"log\.parquet"):
        read(SPEC, [tmp_path / "log.parquet"])


def test_bom_and_crlf(tmp_path: Path) -> None:
    """A byte order mark and Windows line ends are not part of any name or value."""
    path = tmp_path / "log.csv"
    path.write_bytes(("\ufeff" + HEADER + "\n".join(ROWS)).replace("\n", "\r\n").encode())
    check(read(SPEC, [path]))


def test_quotes(tmp_path: Path) -> None:
    """Quoted cells may hold delimiters and doubled quotes; other columns are not shifted."""
    lines = ['1,"7","a,""b"",c","x,y|z",1', '0,8,"",x,"2"', '1,9,d,"",3']
    table = read(SPEC, [write(tmp_path / "log.csv", *lines)])
    assert values(table, "item") == ['a,"b",c', "", "d"]
    assert values(table, "tags") == [["x,y", "z"], ["x"], None]
    assert values(table, "price") == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "cell", ['"a', 'a"', 'a"b', '"a"b', '"', '"a""', '"a,b', ' "a"'], ids=lambda cell: repr(cell)
)
def test_stray_quotes_are_a_bad_line(tmp_path: Path, cell: str) -> None:
    """A quote that does not pair up costs its own line, never a neighbour."""
    path = write(tmp_path / "log.csv", ROWS[0], f"1,7,{cell},x,1", ROWS[1], ROWS[2])
    with pytest.raises(DataError, match=r"log\.csv:3: a quote"):
        read(SPEC, [path])
    table, bad = read_with_bad(path, 0.25)
    assert values(table, "item") == ["a", "b", "é"]
    assert bad.count == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1,7,a,x", "4 values, expected 5"),
        ("1,7,a,x,1,", "6 values, expected 5"),
        ('1,7,"a,x",1', "4 values, expected 5"),
        ("1,7,\udce9,x,1", "not UTF-8"),
        ("1,007,a,x,1", "field 'user': expected an integer"),
        ("1, 7,a,x,1", "field 'user': expected an integer"),
        ("1,7,a,x,cheap", "field 'price': expected a number, got text"),
        ("1,7,a,x,nan", "field 'price': expected a number, got text"),
        ("1,7,a,x, 1", "field 'price': expected a number, got text"),
        ("1,7,a,x,1e39", "field 'price': number out of range"),
        ("1,7,a,x,1e999", "field 'price': number out of range"),
    ],
)
def test_bad_lines_are_counted_and_named(tmp_path: Path, line: str, problem: str) -> None:
    """One bad line is named with file, line and field; it is left out where the share allows."""
    path = tmp_path / "log.csv"
    text = HEADER + "\n".join([ROWS[0], line, *ROWS[1:]])
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=rf"1 of 4 lines are bad:\n  log\.csv:3: {problem}"):
        read(SPEC, [path])
    table, bad = read_with_bad(path, 0.25)
    assert values(table, "item") == ["a", "b", "é"]
    assert table[LINE].to_list() == [2, 4, 5]
    assert [where[:2] for where in bad.lines] == [("log.csv", 3)]
    assert (bad.count, bad.total) == (1, 4)


def test_share_of_bad_lines_is_a_limit(tmp_path: Path) -> None:
    """At the allowed share data is used, one line above it is not."""
    path = write(tmp_path / "log.csv", *["1,7,a,x,1"] * 8, "bad", "1,7,a,x,bad")
    assert read(SPEC, [path], max_bad_lines=0.2).height == 8
    with pytest.raises(DataError, match=r"2 of 10 lines(.|\n)*--max-bad-lines allows 0\.19"):
        read(SPEC, [path], max_bad_lines=0.19)


def test_line_with_two_problems_counts_once(tmp_path: Path) -> None:
    """A line is bad once, however much is wrong with it."""
    path = write(tmp_path / "log.csv", ROWS[0], "1,x,a,b,x")
    assert read_with_bad(path, 0.5)[1].count == 1


def test_report_shows_the_first_ten(tmp_path: Path) -> None:
    """However many lines are bad, the message stays short."""
    path = write(tmp_path / "log.csv", *ROWS, *["bad"] * 25)
    with pytest.raises(DataError) as caught:
        read(SPEC, [path])
    assert str(caught.value).count("log.csv:") == 10
    assert "and 15 more" in str(caught.value)


def test_null_in_a_parquet_list_is_a_bad_line(tmp_path: Path) -> None:
    """A null inside a list is refused in training as it is in serving."""
    frame = pl.DataFrame({"price": [1.0, 2.0], "user": [7, 8], "item": ["a", "b"],
                          "tags": [["x", None], ["x"]], "click": [1, 0]})  # fmt: skip
    frame.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log\.parquet:1: field 'tags': null inside a list"):
        read(SPEC, [tmp_path / "log.parquet"])


def test_infinity_in_parquet_is_a_bad_line(tmp_path: Path) -> None:
    """A number that is not finite is refused, once for each row that has it."""
    inf = float("inf")
    frame = pl.DataFrame({"price": [1.0, inf, -inf], "user": [7, 8, 9], "item": ["a"] * 3,
                          "tags": [["x"]] * 3, "click": [1, 0, 1]})  # fmt: skip
    frame.write_parquet(tmp_path / "log.parquet")
    table, bad = read_with_bad(tmp_path / "log.parquet", 0.7)
    assert [line for _, line, _ in bad.lines] == [2, 3]
    assert table.height == 1


def test_empty_lines_are_passed_over(tmp_path: Path) -> None:
    """An empty line is no row and not bad; later lines keep their numbers."""
    path = write(tmp_path / "log.csv", ROWS[0], "", *ROWS[1:], "")
    table = read(SPEC, [path])
    check(table)
    assert table[LINE].to_list() == [2, 4, 5]


@pytest.mark.parametrize("label", ["2", "", "yes", "0.5", "-1", "truth", "T", " true", '"1 "'])
def test_label_is_0_or_1(tmp_path: Path, label: str) -> None:
    """Any other label is an error with file, line and column, whatever share may be bad."""
    path = write(tmp_path / "log.csv", *ROWS, f"{label},7,a,x,1")
    with pytest.raises(DataError, match=r"log\.csv:5: label 'click' is neither 0 nor 1"):
        read(SPEC, [path], max_bad_lines=1.0)


@pytest.mark.parametrize(
    "clicks",
    [["0", "1.0"], [0, 1], [0.0, 1.0], [False, True], ["false", "true"], ["False", "True"],
     ["FALSE", "TRUE"], ["0.", "1e+00"]],
    ids=str,
)  # fmt: skip
def test_forms_of_the_label(tmp_path: Path, clicks: list[Any]) -> None:
    """Numbers, booleans and their text in any case are labels, in Parquet and in text alike."""
    frame = pl.DataFrame({"price": [1.0] * 2, "user": [7] * 2, "item": ["a"] * 2,
                          "tags": [["x"]] * 2, "click": clicks})  # fmt: skip
    frame.write_parquet(tmp_path / "log.parquet")
    assert labels(SPEC, read(SPEC, [tmp_path / "log.parquet"])).tolist() == [0, 1]
    text = write(tmp_path / "log.csv", *(f"{click},7,a,x,1" for click in clicks))
    assert labels(SPEC, read(SPEC, [text])).tolist() == [0, 1]


def test_numbers_as_other_programs_write_them(tmp_path: Path) -> None:
    """Numbers of R, SAS and Oracle are read in numeric and integer fields of text files."""
    cells = [(".5", "5."), ("-.5", "1e+05"), ("5.", "1E5"), ("1e+05", "100000")]
    path = write(tmp_path / "log.csv", *(f"1,{user},a,x,{price}" for price, user in cells))
    table = read(SPEC, [path])
    assert values(table, "price") == [0.5, -0.5, 5.0, 100_000.0]
    assert [integer_key(user) for user in values(table, "user")] == [5, 100_000, 100_000, 100_000]


def test_label_is_not_needed_to_predict(tmp_path: Path) -> None:
    """Without a label, the label's column may be absent."""
    lines = [row.split(",", 1)[1] for row in ROWS]
    path = write(tmp_path / "log.csv", *lines, header="user,item,tags,price\n")
    assert read(SPEC, [path], label=False).height == 3
    with pytest.raises(DataError, match="'click' is absent"):
        read(SPEC, [path])


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_absent_column_is_named(tmp_path: Path, ending: str) -> None:
    """A column that the spec needs and the file lacks is named."""
    path = tmp_path / f"log{ending}"
    frame = pl.DataFrame({"click": [1], "user": [7], "item": ["a"], "price": [1.0]})
    if ending == ".csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)
    with pytest.raises(DataError, match=rf"log\{ending}: column 'tags' is absent"):
        read(SPEC, [path])


@pytest.mark.parametrize(("mark", "shown"), [(";", ";"), ("\t", "\\t"), ("|", "|")])
def test_another_delimiter_is_named(tmp_path: Path, mark: str, shown: str) -> None:
    """A header that was read as one name, with the wanted ones in it, says what separates them."""
    path = write(tmp_path / "log.csv", "1", header=HEADER.replace(",", mark))
    with pytest.raises(DataError) as caught:
        read(SPEC, [path])
    assert f'delimiter = "{shown}" in the feature spec' in str(caught.value)
    path = write(tmp_path / "log.csv", "1", header=HEADER.replace(",", mark).replace("user", "u"))
    with pytest.raises(DataError, match=r"column '\w+' is absent; the columns are"):
        read(SPEC, [path])


def test_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    """Two columns of one name are an error, not a choice."""
    path = write(tmp_path / "log.csv", "1,7,a,x,1,b", header=HEADER[:-1] + ",item\n")
    with pytest.raises(DataError, match="column 'item' is there more than once"):
        read(SPEC, [path])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "there are no rows in log.csv"),
        (HEADER, "there are no rows in log.csv"),
        ("\n" + HEADER, "log.csv:1: the header is an empty line"),
        (HEADER + "bad\n", "log.csv has no usable line\n1 of 1 lines"),
        (
            HEADER + "1,x7,a,x,1\n",
            "the data has no usable row\n1 of 1 lines are bad:\n  log.csv:2: field 'user'",
        ),
    ],
)
def test_no_data_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    """A file without rows is named, and says how many lines were bad."""
    path = write(tmp_path / "log.csv", header=content)
    with pytest.raises(DataError, match=message.replace(".", r"\.")):
        read(SPEC, [path], max_bad_lines=1.0)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """An absent file is named; no file at all is an error too."""
    for name in ("x.csv", "x.csv.gz", "x.parquet"):
        with pytest.raises(DataError, match=name):
            read(SPEC, [tmp_path / name])
    with pytest.raises(DataError, match="no data files"):
        read(SPEC, [])


@pytest.mark.parametrize("given", ["before", "after"])
def test_parts_without_rows_are_passed_over(tmp_path: Path, given: str) -> None:
    """Beside a part with rows they are one warning; each is recorded with its hash."""
    full = write(tmp_path / "part-0.csv", *ROWS)
    header = write(tmp_path / "part-1.csv")
    (tmp_path / "part-2.csv.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "part-3.parquet").write_bytes(b"")
    empty = [header, tmp_path / "part-2.csv.gz", tmp_path / "part-3.parquet"]
    reader = Reader(SPEC, [*empty, full] if given == "before" else [full, *empty])
    check(pl.concat(reader.frames()))
    assert reader.warnings == ["files without a row: part-1.csv, part-2.csv.gz, part-3.parquet"]
    assert {source.name: source.rows for source in reader.sources} == {
        "part-0.csv": 3, "part-1.csv": 0, "part-2.csv.gz": 0, "part-3.parquet": 0,
    }  # fmt: skip
    with pytest.raises(DataError, match=r"no rows in part-1\.csv, part-2\.csv\.gz, part-3\.par"):
        read(SPEC, empty)


def test_markers_beside_parts_are_passed_over(tmp_path: Path) -> None:
    """A pattern of the shell names them too; directories among them are not looked into."""
    full = write(tmp_path / "part-0.csv", *ROWS)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".part-0.csv.crc").write_bytes(b"crc\0")
    (tmp_path / "_temporary").mkdir()
    reader = Reader(SPEC, sorted(tmp_path.iterdir()))
    check(pl.concat(reader.frames()))
    assert [source.name for source in reader.sources] == [full.name]
    assert reader.warnings == [
        "files passed over, as their names begin with _ or .: .part-0.csv.crc, _SUCCESS, _temporary"
    ]
    with pytest.raises(DataError, match=r"no data files given: names that .* \(_SUCCESS\)"):
        Reader(SPEC, [tmp_path / "_SUCCESS"])


def test_the_click_rate_of_rows_left_out_is_told(tmp_path: Path) -> None:
    """Rows that are left out may click more or less than the rest; those without a label, and a
    reader without labels, do not count.
    """
    lines = ["1,7,a,x,1"] * 2 + ["0,7,a,x,1"] * 6 + ["1,7,a,x,bad"] * 3 + ["0,7,a,x,bad", "1,7"]
    path = write(tmp_path / "log.csv", *lines)
    reader = Reader(SPEC, [path], max_bad_lines=1.0)
    assert sum(frame.height for frame in reader.frames()) == 8
    assert reader.warnings[1:] == [
        "of the rows left out 4 have a label, and their click rate is 0.7500; that of the rest is"
        " 0.2500"
    ]
    unlabelled = Reader(SPEC, [path], max_bad_lines=1.0, label=False)
    list(unlabelled.frames())
    assert len(unlabelled.warnings) == 1


def test_files_of_other_types(tmp_path: Path) -> None:
    """Each file's columns have their own types: a value is the same in any of them."""
    plain = {"click": [1], "user": [7], "item": ["a"], "price": [1.0]}
    pl.DataFrame(plain | {"tags": [["x", "y"]]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame(plain | {"tags": ["x|y"], "user": ["7"]}).write_parquet(tmp_path / "b.parquet")
    frames = list(Reader(SPEC, [tmp_path / "a.parquet", tmp_path / "b.parquet"]).frames())
    assert [values(frame, "tags") for frame in frames] == [[["x", "y"]]] * 2
    assert [values(frame, "user") for frame in frames] == [[7], ["7"]]


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
def test_large_files_are_read_in_pieces(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pieces, the rows, their lines and what is bad are the same."""
    lines = [row for row in ROWS for _ in range(5)]
    lines[7] = lines[7].replace(",8,", ",x,")
    path = tmp_path / f"log{ending}"
    if ending == ".parquet":
        pl.read_csv(write(tmp_path / "log.csv", *lines), infer_schema=False).write_parquet(path)
    else:
        text = (HEADER + "\n".join(lines)).encode()
        path.write_bytes(gzip.compress(text) if ending == ".csv.gz" else text)
    whole, bad = read_with_bad(path, 0.1)
    monkeypatch.setattr(log_files, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(text_log, "_BYTES_AT_ONCE", 40)
    reader = Reader(SPEC, [path], 0.1)
    frames = list(reader.frames())
    assert len(frames) > 3
    assert pl.concat(frames).equals(whole)
    assert reader.bad == bad
    assert bad.count == 1


WHEN = Time(name="when", side="context", parts=("hour",), timezone="Europe/Berlin")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pl.Series([date(2024, 5, 1)]), "2024-05-01"),
        (pl.Series([datetime(2024, 3, 31, 2, 30)]), "2024-03-31T02:30:00"),
        (pl.Series([datetime(2024, 5, 1, tzinfo=UTC)]), 1_714_521_600),
        (pl.Series([datetime(2024, 5, 1)], dtype=pl.Datetime("ns")), "2024-05-01T00:00:00"),
        (pl.Series([None], dtype=pl.Datetime("us")), None),
    ],
    ids=["date", "clock skips it", "with a zone", "nanoseconds", "missing"],
)
def test_typed_times(column: pl.Series, expected: Any) -> None:
    """A typed time is the JSON value of the same moment; without a zone it stays local."""
    assert field_values(WHEN, column)[0] == [expected]


def test_booleans_have_one_rule(tmp_path: Path) -> None:
    """A boolean column and the texts of other programs give one value, which JSON's true is too."""
    field = Categorical(name="mobile", side="context", dtype="boolean")
    spec = FeatureSpec(label="click", fields=(field, *FIELDS[1:2]))
    columns: list[Any] = [[True, False], ["True", "False"], ["TRUE", "FALSE"], ["true", "false"]]
    found = []
    for number, column in enumerate(columns):
        frame = pl.DataFrame({"click": [1, 0], "mobile": column, "item": ["a", "b"]})
        frame.write_parquet(tmp_path / f"{number}.parquet")
        frame.write_csv(tmp_path / f"{number}.csv")
        for ending in ("parquet", "csv"):
            table = read(spec, [tmp_path / f"{number}.{ending}"])
            encoder = field_encoder(field, learned(spec, pl.concat([table, table])))
            found.append(encoder.many([*field_values(field, table["mobile"])[0], True]).tolist())
    assert found == [found[0]] * 8
    assert found[0][0] == found[0][2] != found[0][1]


@pytest.mark.parametrize("name", ["user", "item", "price"])
def test_booleans_of_another_field_are_told_once(tmp_path: Path, name: str) -> None:
    """A column of booleans in a field of another dtype is named, with what would take it."""
    rows: dict[str, Any] = {"click": [1], "user": [7], "item": ["a"], "tags": ["x"], "price": [1.0]}
    pl.DataFrame({**rows, name: [True]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=rf"'{name}' holds booleans.*dtype = \"boolean\""):
        read(SPEC, [tmp_path / "log.parquet"])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_null_values(tmp_path: Path, ending: str) -> None:
    """Nulls as Hive, R and SQL write them are missing where the spec names them."""
    spec = FeatureSpec(label="click", fields=FIELDS, null_values=("\\N", "NA", "NULL", "."))
    rows = {"click": ["1", "0", "1"], "user": ["7", "\\N", "NULL"], "item": ["NA", "b", "\\N"],
            "tags": ["NULL", "x|NA|y", "NA|\\N"], "price": [".", "NA", "1.5"]}  # fmt: skip
    path = tmp_path / f"log.{ending}"
    frame = pl.DataFrame(rows)
    frame.write_csv(path) if ending == "csv" else frame.write_parquet(path)
    table = read(spec, [path])
    of = {field.name: field_values(field, table[field.name])[0] for field in spec.fields}
    assert of["user"] == ["7", None, None]
    assert of["item"] == [None, "b", None]
    assert of["tags"] == [None, ["x", "NA", "y"], ["NA", "\\N"]]
    assert of["price"] == [None, None, 1.5]
    vocabulary = learned(spec, pl.concat([table, table]))
    tags = field_encoder(spec.fields[2], vocabulary).many(of["tags"])
    layout = {slot.name: slot for slot in vocabulary.layout.slots}
    assert tags[0].tolist() == tags[2].tolist()
    assert tags[0, 0] == layout["tags"].missing
    assert layout["tags"].size - 2 == 2, "x and y alone are learned"


def test_null_values_are_values_by_default(tmp_path: Path) -> None:
    """NA is a country unless the spec says otherwise."""
    table = read(SPEC, [write(tmp_path / "log.csv", "1,7,NA,NULL,1", "0,8,b,x,2")])
    assert values(table, "item") == ["NA", "b"]
    assert values(table, "tags") == [["NULL"], ["x"]]


NAMES = ["__line__", "__file__", "__moment__", "line", "v", "code", "*", "^.*$", "column_1", " "]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_field_is_its_own(tmp_path: Path, name: str, ending: str) -> None:
    """Names of the reader's columns, and names that are patterns to libraries, are plain names."""
    fields = (Categorical(name=name, side="context"), *FIELDS[1:2])
    spec = FeatureSpec(label="click", timestamp="at", fields=fields)
    frame = pl.DataFrame({"click": [1, 0], "at": [5, 7], name: ["x", "y"], "item": ["a", "b"]})
    path = tmp_path / f"log.{ending}"
    frame.write_csv(path) if ending == "csv" else frame.write_parquet(path)
    table = read(spec, [path], moment=True)
    assert table[name].to_list() == ["x", "y"]
    assert table[MOMENT].to_list() == [5, 7]
    assert table[LINE].to_list() == ([2, 3] if ending == "csv" else [1, 2])
    write_frame(tmp_path / "frame.parquet", table)
    on_disk = FramesOnDisk([FrameFile(tmp_path / "frame.parquet", table.height)])
    assert pl.concat(on_disk.column(name, np.array([True, False]))).to_list() == ["x"]


def timed(tmp_path: Path, *moments: str) -> list[int]:
    """The seconds of rows whose only difference is their time."""
    lines = [f"{i % 2},{i},a,{moment}" for i, moment in enumerate(moments)]
    path = write(tmp_path / "log.csv", *lines, header="click,user,item,at\n")
    return read(TIMED, [path], moment=True)[MOMENT].to_list()


def test_moments(tmp_path: Path) -> None:
    """Where a time is wanted, each row has its own in seconds."""
    assert timed(tmp_path, "50", "1970-01-01T00:01:00Z", "40") == [50, 60, 40]


def test_bad_timestamp_is_named(tmp_path: Path) -> None:
    """A time that is none is an error with file, line and column."""
    with pytest.raises(DataError, match=r"log\.csv:11: timestamp 'at': time out of range"):
        timed(tmp_path, *map(str, range(9)), "1700000000000")


def test_missing_timestamp_is_named(tmp_path: Path) -> None:
    """Without its time a row cannot be placed."""
    with pytest.raises(DataError, match=r"log\.csv:4: timestamp 'at'"):
        timed(tmp_path, "1", "2", "", "4")


def test_a_spec_without_a_timestamp_has_no_moments(tmp_path: Path) -> None:
    """Without a timestamp there is nothing to split along."""
    with pytest.raises(DataError, match="no `timestamp`"):
        read(SPEC, [write(tmp_path / "log.csv", *ROWS)], moment=True)
