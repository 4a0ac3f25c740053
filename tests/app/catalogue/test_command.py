"""The commands that put items and profiles into a store, and show them."""

from __future__ import annotations

import gzip
from contextlib import closing
from pathlib import Path

import pytest

from app.catalogue.command import store_command
from app.catalogue.kinds import ITEMS, PROFILES, Kind
from app.store.opening import open_store
from app.store.redis_connection import ITEMS as STORED_ITEMS
from tests.support.redis_server import RedisServer


def put(kind: Kind, path: Path, bundle: Path, url: str, *more: str) -> int:
    return store_command(kind, ["put", str(path), "--bundle", str(bundle), "--store", url, *more])


def filling(url: str) -> bool:
    with closing(open_store(url)) as store:
        return store.filling() is not None


def test_a_damaged_item_is_named(
    valkey: RedisServer, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are exported; the exit code tells that it is missing."""
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"id": 1, "features": {}}\n{"id": 2, "features": {}}\n')
    assert put(ITEMS, lines, tiny_bundle, valkey.url, "--create") == 0
    valkey.command("HSET", STORED_ITEMS, ":2", "garbage")
    capsys.readouterr()
    where = ["--store", valkey.url]
    assert store_command(ITEMS, ["get", "2", *where]) == 1
    assert "'2': the stored value is damaged" in capsys.readouterr().err
    written = tmp_path / "all.jsonl"
    assert store_command(ITEMS, ["export", str(written), *where]) == 1
    assert "item '2' is left out: the stored value is damaged" in capsys.readouterr().err
    assert written.read_bytes() == b'{"id":1,"features":{}}\n'


def test_only_who_says_so_makes_a_store_in_redis(
    valkey: RedisServer, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is whole when a put of items has ended; one of profiles, or of nothing, says nothing."""
    lines, empty = tmp_path / "lines.jsonl", tmp_path / "empty.jsonl"
    lines.write_text('{"id": 1, "features": {}}\n')
    empty.write_text("")
    for kind in (ITEMS, PROFILES):
        for path in (lines, empty):
            assert put(kind, path, tiny_bundle, valkey.url) == 1
            assert "items create makes one" in capsys.readouterr().err
    assert put(PROFILES, lines, tiny_bundle, valkey.url, "--create") == 0
    assert put(ITEMS, empty, tiny_bundle, valkey.url) == 0
    assert filling(valkey.url)
    assert put(ITEMS, lines, tiny_bundle, valkey.url) == 0
    assert not filling(valkey.url)
    assert store_command(ITEMS, ["create", "--store", valkey.url]) == 0
    assert not filling(valkey.url)


def test_unknown_fields_are_told_at_the_end(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are stored all the same: another bundle may know them."""
    url, lines = f"sqlite://{tmp_path / 'store.db'}", tmp_path / "lines.jsonl"
    lines.write_text('{"sku": 1, "pric": 2.5}\n{"sku": 2, "price": 1, "title": "a"}\n')
    assert put(ITEMS, lines, tiny_bundle, url, "--id", "sku") == 0
    told = capsys.readouterr().err
    assert "no score depends on them: 'pric' (1 lines), 'title' (1 lines)" in told
    with closing(open_store(url)) as store:
        assert dict(store.get("1").values) == {"sku": 1, "pric": 2.5}  # type: ignore[union-attr]
    lines.write_text('{"user_id": 1, "contry": "DE"}\n')
    assert put(PROFILES, lines, tiny_bundle, url, "--key", "user_id") == 0
    assert "'contry' (1 lines; did you mean 'country'?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("items.csv", b"item_id,price\n1,2.5\n2,3\n"),
        ("items.tsv", b"\xef\xbb\xbfitem_id\tprice\n1\t2.5\n"),
        ("items.parquet", b"PAR1\x15\x04\x15\n\x00garbage"),
        ("items.csv.gz", gzip.compress(b"item_id,price\n1,2.5\n", mtime=0)),
    ],
)
@pytest.mark.parametrize(("kind", "option"), [(ITEMS, "--id"), (PROFILES, "--key")])
def test_a_file_of_another_form_is_told_once(
    kind: Kind, option: str, name: str, content: bytes, tiny_bundle: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One line names the command that reads it; nothing is made."""
    path = tmp_path / name
    path.write_bytes(content)
    url = f"sqlite://{tmp_path / 'store.db'}"
    assert put(kind, path, tiny_bundle, url, option, "item_id", "--max-bad-lines", "1") == 1
    told = capsys.readouterr().err
    assert told.startswith(f"{path} is not JSON lines; CSV, TSV and Parquet are put by the trainer")
    assert f"python -m model {kind.name}s put FILE {option} FIELD --spec SPEC" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "store.db").exists()


def test_lines_that_are_wrong_among_others_are_told_by_their_numbers(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of JSON lines may begin with one that is none."""
    lines, url = tmp_path / "lines.jsonl", f"sqlite://{tmp_path / 'store.db'}"
    lines.write_text('garbage\n{"id": 1, "features": {}}\n')
    assert put(ITEMS, lines, tiny_bundle, url, "--max-bad-lines", "0.5") == 0
    assert f"{lines}:1: JSON is malformed" in capsys.readouterr().err
