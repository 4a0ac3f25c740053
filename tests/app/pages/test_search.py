"""Items are found in the store by their ids and values."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import StoreError
from app.pages import search
from app.pages.search import search_items
from app.store.sqlite import SqliteStore
from app.store.store import Item

FILMS = [
    Item(1, {"title": "Toy Story", "genres": ["Animation", "Comedy"]}),
    Item(11, {"title": "Se7en", "genres": ["Crime"]}),
    Item("b-1", {"title": "Straße", "year": 1954, "genres": []}),
]


@pytest.fixture
def url(tmp_path: Path) -> str:
    store = SqliteStore(tmp_path / "store.db", create=True)
    store.put(FILMS)
    store.close()
    return f"sqlite://{tmp_path}/store.db"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [1, 11, "b-1"]),
        ("1", [1, 11, "b-1"]),
        ("11", [11]),
        ("B-1", ["b-1"]),
        ("toy", [1]),
        ("comedy", [1]),
        ("STRASSE", ["b-1"]),
        ("1954", []),
        ("nothing", []),
    ],
)
def test_items_are_found(url: str, text: str, expected: list[int | str]) -> None:
    """By their id, which comes first where it is the whole text, and by texts among values."""
    found = search_items(url, text)
    assert [each["id"] for each in found["items"]] == expected
    assert (found["whole"], found["count"]) == (True, 3)


def test_a_search_ends(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many items, and after so much time, and says so."""
    monkeypatch.setattr(search, "MOST_FOUND", 2)
    found = search_items(url, "")
    assert (len(found["items"]), found["whole"]) == (2, False)
    monkeypatch.setattr(search, "SEARCH_SECONDS", -1.0)
    assert search_items(url, "toy") == {"items": [], "whole": False, "count": 3}


def test_a_store_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """It is told, not taken for an empty one."""
    with pytest.raises(StoreError):
        search_items(f"sqlite://{tmp_path}/nothing.db", "")
