"""``where`` chooses the items that a loop over their values would choose."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from app.catalogue.filters import SPARE_CODES, Filters, Keys
from app.errors import ValueProblem
from app.features.spec import Categorical, MultiCategorical, Numeric, Time
from app.scoring.items import Range

BRAND = Categorical(name="brand", side="candidate", null_values=("none",))
FIELDS = (
    BRAND,
    Categorical(name="year", side="candidate", dtype="integer"),
    MultiCategorical(name="genres", side="candidate", max_values=3),
    Numeric(name="price", side="candidate"),
    Time(name="made", side="candidate", parts=("hour",)),
    Numeric(name="age", side="candidate", dynamic=True),
)
BRANDS = ["a", "b", "", "none", "7", None]
GENRES = ["x", "y", "z", "", "w"]


def draw(drawn: random.Random) -> dict[str, Any]:
    values = {
        "brand": drawn.choice(BRANDS),
        "year": drawn.choice([None, 1990, "1991", 2**63, -5]),
        "genres": drawn.choice([None, [], drawn.choices(GENRES, k=5)]),
        "price": drawn.choice([None, 0, 1, 2.5, -1e30]),
        "made": 0,
    }
    return {name: value for name, value in values.items() if drawn.random() < 0.9}


def test_conditions_choose_what_a_loop_chooses() -> None:
    """Values of any form, missing ones, and of a list those that are encoded."""
    drawn = random.Random(2)
    filters = Filters(FIELDS)
    items = {}
    for place in range(3_000):
        items[place] = draw(drawn)
        filters.put([place], [items[place]])
    for place in drawn.sample(sorted(items), 1_000):
        items[place] = draw(drawn)
        filters.put([place], [items[place]])

    def having(name: str, condition: Any, expected: Any) -> None:
        mask = filters.mask(name, condition)
        found = [place for place in items if mask[place]]
        assert found == [place for place, item in items.items() if expected(item.get(name))]
        assert not mask[len(items) :].any() or name == "price"

    having("brand", ["a", 7], lambda value: value in ("a", "7"))
    having("brand", ["none", "", "c"], lambda value: False)
    having("year", ["1990", 1991.0], lambda value: value in (1990, "1991"))
    having("year", Range(1990, 1991), lambda value: value in (1990, "1991"))
    having("year", Range(min=1991), lambda value: value in ("1991", 2**63))
    having("price", Range(max=0), lambda value: value is not None and value <= 0)
    having("price", Range(), lambda value: value is not None)
    having("price", [1, 2.5], lambda value: value in (1, 2.5))
    having(
        "genres",
        ["x", "w"],
        lambda value: {"x", "w"} & set([each for each in value or () if each][:3]),
    )
    having("genres", [], lambda value: False)


@pytest.mark.parametrize(
    ("name", "condition", "problem"),
    [
        ("made", [0], "a time cannot be filtered"),
        ("age", [0], "a dynamic field has no stored values"),
        ("user", [0], "no candidate field"),
        ("brand", Range(min=1), "a range needs"),
        ("genres", Range(min=1), "a range needs"),
        ("brand", [None], "expected text, got null"),
        ("year", ["x"], "expected an integer"),
        ("price", ["x"], "expected a number"),
    ],
)
def test_a_condition_that_cannot_be_met_is_told(name: str, condition: Any, problem: str) -> None:
    """By the rules of the field."""
    with pytest.raises(ValueProblem, match=problem):
        Filters(FIELDS).mask(name, condition)


def test_values_that_were_replaced_take_no_memory() -> None:
    """A field that changes with every put does not grow without end."""
    column = Keys(BRAND)
    most = 5 * SPARE_CODES
    for number in range(most):
        column.put(np.array([number % 3], np.int32), [f"value {number}"])
    assert len(column._codes) < most
    for number in range(most - 3, most):
        found = column.matches([f"value {number}"]).tolist()[:3]
        assert found == [number % 3 == place for place in range(3)]
    assert not column.matches(["value 5"]).any()


def test_items_that_are_put_together_are_as_one_by_one() -> None:
    """Whatever the values, and of several with one place the last."""
    drawn = random.Random(9)
    alone, together = Filters(FIELDS), Filters(FIELDS)
    for _ in range(60):
        places = [drawn.randrange(2_500) for _ in range(drawn.randrange(40))]
        values = [draw(drawn) for _ in places]
        together.put(places, values)
        for place, each in zip(places, values, strict=True):
            alone.put([place], [each])
        for name, condition in (
            ("brand", ["a", "7"]), ("year", Range(1990, 2**64)), ("genres", ["x", "w"]),
            ("price", Range(0, 2)), ("price", [1]),
        ):  # fmt: skip
            mask = alone.mask(name, condition)
            assert (mask == together.mask(name, condition)).all()
