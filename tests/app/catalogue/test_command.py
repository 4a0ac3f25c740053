"""The commands that put items and profiles into a store, and show them."""

from __future__ import annotations

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
