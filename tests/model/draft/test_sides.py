"""A column's side follows from what varies within the rows of a key."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model.draft.sides import guess_sides

ROWS = 2_000
NUMBERS = np.random.default_rng(3)
USER = NUMBERS.integers(0, 100, ROWS)
ITEM = NUMBERS.integers(0, 50, ROWS)
CODES: dict[str, NDArray[np.int64]] = {
    "user": USER,
    "a": USER % 5,
    "b": NUMBERS.integers(0, 4, ROWS),
    "item": ITEM,
    "c": ITEM % 7,
    "weekday": NUMBERS.integers(0, 7, ROWS),
    "when": NUMBERS.integers(0, 24, ROWS),
}


@pytest.mark.parametrize(
    ("context", "candidate", "wanted"),
    [
        (["user"], [], {"a": "context", "b": "candidate", "c": "candidate", "weekday": "context"}),
        ([], ["item"], {"a": "context", "b": "context", "c": "candidate", "weekday": "context"}),
        (["user"], ["item"], {"a": "context", "c": "candidate", "weekday": "context"}),
        (["user", "b"], [], {"a": "context", "b": "context", "c": "candidate"}),
    ],
)
def test_a_key_decides(context: list[str], candidate: list[str], wanted: dict[str, str]) -> None:
    """What is the same in all rows of a key is of its side; a moment is the request's."""
    found = guess_sides(CODES, ["when"], context, candidate, list(CODES))
    assert found["when"].side == "context"
    for name in context:
        assert found[name].side == "context"
    for name in candidate:
        assert found[name].side == "candidate"
    assert {name: found[name].side for name in wanted} == wanted


def test_a_field_with_one_usual_value_is_not_decided_by_everything() -> None:
    """99.5 % of the rows alike say nothing of a user."""
    usual = (NUMBERS.random(ROWS) < 0.005).astype(np.int64)
    found = guess_sides({"user": USER, "x": usual}, [], ["user"], [], ["user", "x"])
    assert found["x"].side == "candidate"


def test_a_key_that_is_no_field_decides_too() -> None:
    """A request's number is left out of the spec, and its rows are looked at all the same."""
    request = np.arange(ROWS) // 4
    page = (request * 7) % 11
    codes = {"request": request, "page_kind": page, "item": ITEM}
    found = guess_sides(codes, [], ["request"], [], ["page_kind", "item"])
    assert {name: guess.side for name, guess in found.items()} == {
        "page_kind": "context", "item": "candidate",
    }  # fmt: skip
    assert found["page_kind"].sure


def test_a_key_without_repeats_says_nothing() -> None:
    """Names are all that is left, and the guess says so."""
    codes = {"row": np.arange(ROWS), "user_id": USER, "item_id": ITEM}
    found = guess_sides(codes, [], ["row"], [], ["user_id", "item_id"])
    assert {name: (guess.side, guess.sure) for name, guess in found.items()} == {
        "user_id": ("context", False), "item_id": ("candidate", False),
    }  # fmt: skip


@pytest.mark.parametrize("names", [("p", "q", "r"), ("user", "device"), ("item", "genre")])
def test_each_side_gets_a_field(names: tuple[str, ...]) -> None:
    """A spec needs both, so one is chosen, and marked as a guess."""
    codes = {name: NUMBERS.integers(0, 9, ROWS) for name in names}
    found = guess_sides(codes, [], [], [], list(names))
    assert {guess.side for guess in found.values()} == {"context", "candidate"}
    assert not any(guess.sure for guess in found.values())


@pytest.mark.parametrize(
    ("context", "candidate"), [([], []), (["place"], []), ([], ["place"]), (["user"], ["place"])]
)
def test_the_id_of_items_tells_beside_other_keys(context: list[str], candidate: list[str]) -> None:
    """What varies within an item's rows is not the item's, whatever else is given."""
    codes = CODES | {"place": NUMBERS.integers(0, 3, ROWS), "slot": CODES["b"]}
    fields = ["user", "a", "b", "c", "slot"]
    found = guess_sides(codes, [], context, [*candidate, "item"], fields, "item")
    assert found["b"].side == "context"
    assert found["b"].sure
    assert found["b"].reason == "it varies within the rows of item"
    assert found["a"].side == "context"
    assert found["a"].sure
    assert found["c"].side == "candidate"
    assert not found["slot"].sure, "a place of an item varies, too"
    assert found["slot"].varies
    assert not found["c"].varies
