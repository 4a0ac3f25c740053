"""A log that has only ids, joined to the values of items and users, is the log with the values."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from app.features.spec import Categorical, FeatureSpec, Numeric
from model.data.errors import AbsentColumns, DataError
from model.data.input_files import InputFiles
from model.data.prepare import Prepared, prepare
from model.data.reader import Reader
from model.data.stored_files import StoredFiles
from model.data.stored_values import read_stored
from model.data.values import json_rows
from tests.support.samples import CANDIDATE, CONTEXT, Sample
from tests.support.samples import SPEC as SAMPLE_SPEC

SPEC = FeatureSpec.parse(SAMPLE_SPEC, "sample")
OF_LOG = ("time", "placement")
"""Context fields that are of the moment and stay in the log."""


@pytest.fixture(scope="module")
def lines(sample: Sample) -> list[dict[str, str]]:
    """The lines of the sample, as CSV has them."""
    with sample.data.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, lines: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return path


def write_json(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def of_side(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row and name not in OF_LOG}


@pytest.fixture(scope="module")
def ids(
    lines: list[dict[str, str]], sample: Sample, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[StoredFiles]]:
    """A log of ids: items as JSON lines and as an export of a store, users as CSV."""
    directory = tmp_path_factory.mktemp("ids")
    log = write_csv(
        directory / "clicks.csv",
        [
            {"sku": f"s{n}", "visitor": n} | {name: line[name] for name in (*OF_LOG, "click")}
            for n, line in enumerate(lines)
        ],
    )
    some = [{"sku": f"s{n}", **of_side(row, CANDIDATE)} for n, row in enumerate(sample.rows)]
    half = len(some) // 2
    first = write_json(directory / "items.jsonl", [{"sku": "s0", "price": 99}, *some[:half]])
    exported = [
        {"id": each["sku"], "features": {k: v for k, v in each.items() if k != "sku"}}
        for each in some[half:]
    ]
    users = write_csv(
        directory / "users.csv",
        [{"visitor": n} | of_side(line, CONTEXT) for n, line in enumerate(lines)],
    )
    return log, [
        StoredFiles("item", [first, write_json(directory / "more.ndjson", exported)], "sku"),
        StoredFiles("profile", [users], "visitor"),
    ]


def assert_same(mine: Prepared, expected: Prepared, directory: Path) -> None:
    """The vocabularies and the encoded rows are equal to the last byte."""
    for name, each in (("mine", mine), ("expected", expected)):
        (directory / name).mkdir()
        each.vocabulary.save(directory / name)
    for path in (directory / "expected").iterdir():
        assert (directory / "mine" / path.name).read_bytes() == path.read_bytes(), path.name
    for part, rows in expected.data.items():
        for name in ("context", "candidate", "label"):
            found = getattr(mine.data[part], name)
            np.testing.assert_array_equal(found, getattr(rows, name), f"{part} {name}")
        for side in ("context_lists", "candidate_lists"):
            pairs = zip(getattr(mine.data[part], side), getattr(rows, side), strict=True)
            for found, wanted in pairs:
                np.testing.assert_array_equal(found, wanted)
    # CSV has text where JSON has numbers: to the encoder they are equal.
    told = [[{name: str(value) for name, value in row.items()} for row in each.test_rows]
            for each in (mine, expected)]  # fmt: skip
    assert told[0] == told[1]


def test_what_is_trained_by_the_join_is_what_the_joined_file_gives(
    sample: Sample, ids: tuple[Path, list[StoredFiles]], tmp_path: Path
) -> None:
    """Equal vocabulary, encoded rows and labels, byte by byte; keys need not be fields."""
    log, stored = ids
    joined = prepare(sample.spec, InputFiles([log], stored=stored), progress=False)
    whole = prepare(sample.spec, InputFiles([sample.data]), progress=False)
    assert_same(joined, whole, tmp_path)
    assert joined.fingerprint() != whole.fingerprint()
    names = [source.name for source in joined.sources["train"]]
    assert names == ["clicks.csv", "items.jsonl", "more.ndjson", "users.csv"]


def read(
    log: Path, stored: list[StoredFiles], max_bad_lines: float = 0.0
) -> tuple[list[dict[str, Any]], Reader]:
    """The rows of a log as callers would send them, and the reader."""
    values = [read_stored(SPEC, each, max_bad_lines) for each in stored]
    reader = Reader(SPEC, [log], max_bad_lines, stored=values)
    frame = pl.concat(reader.frames(), how="vertical_relaxed")
    return json_rows(SPEC, frame), reader


@pytest.fixture
def users(tmp_path: Path) -> StoredFiles:
    path = write_json(tmp_path / "users.jsonl", [
        {"user_id": 7, "country": "DE", "age": 30, "vip": True},
        {"user_id": "8", "country": "FR"},
        {"user_id": 8.0, "age": 40},
    ])  # fmt: skip
    return StoredFiles("profile", [path], "user_id")


GOOD = {"placement": "top", "click": 1}


def test_values_of_the_log_win(tmp_path: Path, users: StoredFiles) -> None:
    """In JSON lines each of them, a null too; of several entries with one key the last counts."""
    log = write_json(tmp_path / "log.jsonl", [
        {**GOOD, "user_id": "7.0"},
        {**GOOD, "user_id": 7, "country": "us", "age": None},
        {**GOOD, "user_id": 8},
        {**GOOD, "user_id": 9},
        {**GOOD},
    ])  # fmt: skip
    rows, reader = read(log, [users])
    assert [{k: v for k, v in row.items() if k != "placement"} for row in rows] == [
        {"user_id": "7.0", "country": "DE", "age": 30},
        {"user_id": 7, "country": "us"},
        {"user_id": 8, "age": 40},
        {"user_id": 9},
        {},
    ]
    assert "2 of 5 rows have no profile: its fields are missing" in reader.warnings


def test_a_column_of_the_log_wins(tmp_path: Path, users: StoredFiles) -> None:
    """Its empty cells are missing values of the log."""
    log = write_csv(
        tmp_path / "log.csv",
        [
            {**GOOD, "user_id": "7", "age": 3, "time": 5} | dict.fromkeys(CANDIDATE, ""),
            {**GOOD, "user_id": "7", "age": "", "time": 6} | dict.fromkeys(CANDIDATE, ""),
        ],
    )
    first, second = read(log, [users])[0]
    assert (first["age"], first["country"]) == (3.0, "DE")
    assert ("age" in second, second["country"]) == (False, "DE")
    log.write_text("placement,click\ntop,1\n")
    with pytest.raises(DataError, match=r"log\.csv: column 'user_id' is absent"):
        read(log, [users])


def test_a_row_of_an_unknown_item_is_left_out_and_told(tmp_path: Path) -> None:
    """As serving never scores one; it counts as a bad line."""
    path = tmp_path / "items.parquet"
    pl.DataFrame({"item_id": [1, 2], "price": [1.5, None], "tags": [["a"], None]}).write_parquet(
        path
    )
    items = StoredFiles("item", [path], "item_id")
    log = write_json(
        tmp_path / "log.jsonl", [{**GOOD, "item_id": each} for each in (1, 2, 3, None, "1")]
    )
    with pytest.raises(DataError, match=r"(?s)2 of 5 lines are bad:.*:3: field 'item_id': --items"):
        read(log, [items])
    rows, reader = read(log, [items], max_bad_lines=0.4)
    assert [row.get("price") for row in rows] == [1.5, None, 1.5]
    assert [row.get("tags") for row in rows] == [["a"], None, ["a"]]
    assert [line for _, line, _ in reader.bad.lines] == [3, 4]


def test_a_dynamic_field_is_the_logs_own(tmp_path: Path) -> None:
    """A stored value is one of another moment, as it is in serving."""
    fields = (
        Categorical(name="user", side="context"),
        Categorical(name="item", side="candidate"),
        Numeric(name="age", side="candidate", dynamic=True),
        Numeric(name="price", side="candidate"),
    )
    spec = FeatureSpec(label="click", fields=fields)
    path = tmp_path / "items.jsonl"
    items = write_json(path, [{"item": "a", "age": 1, "price": 2}])
    log = write_json(tmp_path / "log.jsonl", [
        {"user": "u", "item": "a", "click": 1}, {"user": "u", "item": "a", "age": 5, "click": 0},
    ])  # fmt: skip
    files = StoredFiles("item", [items], "item")
    [frame] = Reader(spec, [log], stored=[read_stored(spec, files, 0.0)]).frames()
    assert json_rows(spec, frame) == [
        {"user": "u", "item": "a", "price": 2.0},
        {"user": "u", "item": "a", "age": 5.0, "price": 2.0},
    ]


def test_a_stored_value_is_checked_where_it_is_stored(tmp_path: Path, users: StoredFiles) -> None:
    """By file, line and field; what the spec requires may be absent."""
    log = write_json(tmp_path / "log.jsonl", [{**GOOD, "user_id": 7}])
    wrong = write_json(tmp_path / "wrong.jsonl", [
        {"user_id": 7, "age": "thirty"}, {"country": "DE"}, {"user_id": 1},
    ])  # fmt: skip
    bad = StoredFiles("profile", [*users.paths, wrong], "user_id")
    with pytest.raises(DataError) as caught:
        read(log, [bad])
    assert str(caught.value).splitlines()[:3] == [
        "--profiles: 2 of 6 lines are bad:",
        "  wrong.jsonl:1: field 'age': expected a number, got text",
        "  wrong.jsonl:2: field 'user_id': expected the profile's id",
    ]
    assert read(log, [bad], max_bad_lines=0.5)[0][0]["age"] == 30
    absent = StoredFiles("profile", [tmp_path / "none.jsonl"], "user_id")
    with pytest.raises(DataError, match=r"cannot read .*none\.jsonl"):
        read(log, [absent])
    with pytest.raises(DataError, match="--key: 'item_id' is not a field of the context's side"):
        read(log, [StoredFiles("profile", users.paths, "item_id")])


def test_a_headerless_log_is_joined_to_files_with_headers(tmp_path: Path) -> None:
    """``columns`` of the spec name the log's alone."""
    fields = (
        Categorical(name="user", side="context", dtype="integer"),
        Numeric(name="age", side="context"),
        Categorical(name="item", side="candidate"),
    )
    spec = FeatureSpec(label="click", fields=fields, columns=("click", "user", "item"))
    users = write_csv(tmp_path / "users.csv", [{"user": 7, "age": 30, "other": 1}])
    (log := tmp_path / "log.csv").write_text("1,7,a\n")
    files = StoredFiles("profile", [users], "user")
    [frame] = Reader(spec, [log], stored=[read_stored(spec, files, 0.0)]).frames()
    assert json_rows(spec, frame) == [{"user": "7", "age": 30.0, "item": "a"}]


def test_the_cache_knows_the_stored_files(
    tmp_path: Path, sample: Sample, users: StoredFiles
) -> None:
    """Other values are another result."""
    inputs = InputFiles([sample.data], stored=[users])
    before = inputs.key("text", SPEC)
    assert before != InputFiles([sample.data]).key("text", SPEC)
    write_json(users.paths[0], [{"user_id": 7}])
    assert inputs.key("text", SPEC) != before


TABLE = FeatureSpec.parse(
    """
label = "click"
fields = [
    {name = "user", kind = "categorical", side = "context"},
    {name = "feature_0", kind = "categorical", side = "context"},
    {name = "item", kind = "categorical", side = "candidate"},
    {name = "item_feature_0", kind = "categorical", side = "candidate"},
    {name = "item_feature_1", kind = "categorical", side = "candidate"},
    {name = "age", kind = "numeric", side = "candidate", dynamic = true},
]
"""
)
OF_ITEMS = "values of items can come from files of their own: --items FILE --id FIELD"
OF_USERS = "values of users can come from files of their own: --profiles FILE --key FIELD"


@pytest.mark.parametrize(
    ("columns", "advice"),
    [
        ("click,user,feature_0,item,age", f"\n2 of 3 candidate fields are absent; {OF_ITEMS}"),
        ("click,user,feature_0,item,item_feature_0,age", f"1 of 3 candidate fields .*; {OF_ITEMS}"),
        ("click,item,item_feature_0,item_feature_1,age", f"2 of 2 context fields .*; {OF_USERS}"),
        ("click,key,age", f"(?s)3 of 3 candidate fields .*{OF_ITEMS}\n.*{OF_USERS}"),
    ],
)
def test_absent_columns_may_be_those_of_other_files(
    columns: str, advice: str, tmp_path: Path
) -> None:
    """The error says so, for each side; a column that is wanted itself is no suggestion."""
    (tmp_path / "log.csv").write_text(f"{columns}\n")
    with pytest.raises(DataError, match=advice) as caught:
        InputFiles([tmp_path / "log.csv"]).read(TABLE, tmp_path)
    assert "did you mean" not in str(caught.value)
    with pytest.raises(DataError) as caught:
        next(Reader(TABLE, [tmp_path / "log.csv"]).frames())
    assert "files of their own" not in str(caught.value), "this caller takes none"


@pytest.mark.parametrize(
    "columns",
    [
        "click,user,feature_0,item,item_feature_0,item_feature_x,age",
        "click,user,item,item_feature_0,item_feature_1,age",
        "click,user,feature_0,item,item_feature_0,item_feature_1",
    ],
)
def test_one_column_may_be_written_wrong(columns: str, tmp_path: Path) -> None:
    """A near name is told, and no other file where nothing suggests it."""
    (tmp_path / "log.csv").write_text(f"{columns}\n")
    with pytest.raises(DataError, match="is absent") as caught:
        InputFiles([tmp_path / "log.csv"]).read(TABLE, tmp_path)
    assert "files of their own" not in str(caught.value)
    assert ("did you mean 'item_feature_x'?" in str(caught.value)) == ("_x" in columns)


def test_given_files_are_no_advice(tmp_path: Path) -> None:
    """Who gives --items needs only to hear of users."""
    (tmp_path / "log.csv").write_text("click,item,age\n1,a,2\n")
    (tmp_path / "items.csv").write_text("item,item_feature_0,item_feature_1\na,b,c\n")
    stored = [StoredFiles("item", [tmp_path / "items.csv"], "item")]
    with pytest.raises(DataError, match=OF_USERS) as caught:
        InputFiles([tmp_path / "log.csv"], stored=stored).read(TABLE, tmp_path)
    assert OF_ITEMS not in str(caught.value)
    error = pickle.loads(pickle.dumps(AbsentColumns("x", ["y"], True)))
    assert (str(error), error.names, error.near) == ("x", ["y"], True)
