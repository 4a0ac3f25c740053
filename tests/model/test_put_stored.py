"""Items and profiles go from files of every kind into a store, as a request would have them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from app.errors import StoreError
from app.store.opening import open_store
from model.data.errors import DataError
from model.data.stored_files import StoredFiles
from model.put_stored import put_stored
from tests.support.redis_server import RedisServer
from tests.support.starting import run

SPEC = """
label = "click"

[[fields]]
name = "user"
kind = "categorical"
side = "context"

[[fields]]
name = "age"
kind = "numeric"
side = "context"
required = true

[[fields]]
name = "item"
kind = "categorical"
side = "candidate"
dtype = "integer"

[[fields]]
name = "genres"
kind = "multi_categorical"
side = "candidate"
separator = "|"

[[fields]]
name = "price"
kind = "numeric"
side = "candidate"
"""
TABLE = pl.DataFrame(
    {
        "item": [7, 8, 7],
        "genres": [["a", "b"], [], ["c"]],
        "price": [1.5, None, 2.0],
        "title": ["x", "y", "z"],
    }
)
EXPECTED: dict[int | str, dict[str, Any]] = {
    7: {"item": 7, "genres": ["c"], "price": 2.0},
    8: {"item": 8},
}


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path / 'store.db'}"


def stored(url: str, kind: str = "item") -> dict[int | str, dict[str, Any]]:
    with closing(open_store(url)) as store:
        entries = store if kind == "item" else store.profiles
        return {each.id: dict(each.values) for each in entries.each()}


def write(table: pl.DataFrame, path: Path) -> Path:
    """Write a table in the form that a name tells."""
    flat = table.with_columns(pl.col("genres").list.join("|"))
    if path.suffix == ".parquet":
        table.write_parquet(path)
    elif path.suffix == ".jsonl":
        table.write_ndjson(path)
    else:
        flat.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",", quote_style="never")
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_files_of_every_kind_are_stored_alike(
    spec: Path, url: str, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values are those of JSON, and the last line of an id counts."""
    path = write(TABLE, tmp_path / f"items.{ending}")
    assert put_stored(spec, StoredFiles("item", [path], "item"), url, 0.0) == 2
    found = stored(url)
    # An empty list and a null are values in JSON, and missing ones in text.
    plain = {key: {name: value for name, value in values.items() if value not in (None, [])}
             for key, values in found.items()}  # fmt: skip
    assert plain == EXPECTED
    assert all(isinstance(key, int) for key in found)
    assert "1 lines have the id of a later one" in capsys.readouterr().err


def test_bad_lines_are_named_and_nothing_is_stored(
    spec: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless they are allowed."""
    path = tmp_path / "items.csv"
    path.write_text("item,genres,price\n1,a,2\n2,b,dear\nx,c,3\n")
    files = StoredFiles("item", [path], "item")
    with pytest.raises(DataError, match=r"items\.csv:3: field 'price': expected a number"):
        put_stored(spec, files, url, 0.5)
    with pytest.raises(StoreError):
        stored(url)
    assert put_stored(spec, files, url, 0.7) == 1
    assert list(stored(url)) == [1]
    assert "items.csv:4: field 'item': expected the item's id" in capsys.readouterr().err


def test_an_item_without_a_required_field_is_refused(spec: Path, url: str, tmp_path: Path) -> None:
    """No bundle of the spec would take it."""
    spec.write_text(SPEC + "required = true\n")
    path = write(TABLE, tmp_path / "items.parquet")
    with pytest.raises(DataError, match=r"1 items lack the required field 'price'.*'8'"):
        put_stored(spec, StoredFiles("item", [path], "item"), url, 0.0)


def test_values_of_dynamic_fields_are_not_stored(spec: Path, url: str, tmp_path: Path) -> None:
    """They come with a request."""
    spec.write_text(SPEC + "dynamic = true\n")
    path = write(TABLE, tmp_path / "items.parquet")
    assert put_stored(spec, StoredFiles("item", [path], "item"), url, 0.0) == 2
    assert not any("price" in values for values in stored(url).values())


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_columns_without_a_field_are_told(
    spec: Path, url: str, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are not stored; one that was written wrong would be lost without a word."""
    path = write(TABLE.rename({"price": "prise"}), tmp_path / f"items.{ending}")
    assert put_stored(spec, StoredFiles("item", [path], "item"), url, 0.0) == 2
    told = "not stored, because no candidate field of the spec has the name: "
    assert f"{told}'prise' (did you mean 'price'?), 'title'\n" in capsys.readouterr().err
    path = write(TABLE.drop("title"), path)
    put_stored(spec, StoredFiles("item", [path], "item"), url, 0.0)
    assert told not in capsys.readouterr().err


def test_what_is_too_large_is_not_stored(spec: Path, url: str, tmp_path: Path) -> None:
    """Told by the first id, before anything is stored."""
    users, items = tmp_path / "users.csv", tmp_path / "items.csv"
    users.write_text(f"user,age\nann,3\n{'x' * 513},1\n")
    with pytest.raises(DataError, match=r"^1 profiles .*an id is 1 to 512 bytes.*'xxx"):
        put_stored(spec, StoredFiles("profile", [users], "user"), url, 0.0)
    items.write_text(f"item,genres,price\n1,a,2\n2,{'b' * 2**16},2\n")
    with pytest.raises(DataError, match=r"^1 items .*at most 65536 bytes of JSON.*'2'; nothing"):
        put_stored(spec, StoredFiles("item", [items], "item"), url, 0.0)
    with pytest.raises(StoreError):
        stored(url)


def test_profiles_need_not_be_complete(spec: Path, tmp_path: Path, valkey: RedisServer) -> None:
    """A request may have what they lack; Redis takes them too."""
    path = tmp_path / "users.jsonl"
    path.write_text('{"user": "ann", "age": 30}\n{"user": "bob"}\n')
    files = StoredFiles("profile", [path], "user")
    with pytest.raises(StoreError, match="there is no store in Redis, or it was emptied"):
        put_stored(spec, files, valkey.url, 0.0)
    assert put_stored(spec, files, valkey.url, 0.0, create=True) == 2
    assert stored(valkey.url, "profile") == {
        "ann": {"user": "ann", "age": 30},
        "bob": {"user": "bob"},
    }


@pytest.mark.slow
def test_the_commands(spec: Path, url: str, tmp_path: Path) -> None:
    """Both kinds, with the options that the help names; errors are one line."""
    path = write(TABLE, tmp_path / "items.csv")
    words = ["--spec", str(spec), "--store", url]
    done = run("model", "items", "put", str(path), "--id", "item", *words)
    assert done.returncode == 0, done.stderr
    assert "stored 2 items" in done.stderr
    assert set(stored(url)) == {7, 8}
    people = tmp_path / "people.jsonl"
    people.write_text(json.dumps({"user": "ann", "age": 30}))
    done = run("model", "profiles", "put", str(people), "--key", "user", *words)
    assert "stored 1 profiles" in done.stderr
    wrong = run("model", "items", "put", str(path), "--id", "user", *words)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
    assert "'user' is not a field of the candidate's side" in wrong.stderr
