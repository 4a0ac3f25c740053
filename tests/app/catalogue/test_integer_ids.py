"""The table of integer ids holds what a dictionary would."""

from __future__ import annotations

import random

import pytest

from app.catalogue.integer_ids import ABSENT, INTEGER_MAX, INTEGER_MIN, IntegerIds


@pytest.mark.parametrize(
    "numbers",
    [
        range(3_000),
        range(-(2**40), 2**40, 2**30),
        [INTEGER_MIN, INTEGER_MAX, 0, -1, 1, *range(5, 4_000, 7)],
        # Ids whose lower or upper bits are alike.
        [number << 32 for number in range(2_000)],
        [(number << 52) - 2**63 for number in range(2_000)],
    ],
    ids=["dense", "sparse", "ends", "upper bits", "uppermost bits"],
)
def test_it_holds_what_was_put_last(numbers: list[int]) -> None:
    """Through any order of puts and drops, while it grows; many at once as one by one."""
    drawn = random.Random(3)
    table, expected = IntegerIds(), dict[int, int]()
    for turn in range(12_000):
        number = drawn.choice(numbers)
        if drawn.random() < 0.7:
            table.put(number, turn)
            expected[number] = turn
        elif number in expected:
            table.drop(number)
            del expected[number]
    every = [*numbers]
    drawn.shuffle(every)
    found = [expected.get(number, ABSENT) for number in every]
    assert table.find(every).tolist() == found
    assert [table.get(number) for number in every] == found
    assert table.find([]).tolist() == []


def test_ids_that_come_and_go_take_no_memory() -> None:
    """The spots of dropped ones are used again."""
    table = IntegerIds()
    for number in range(50_000):
        table.put(number, number)
        table.drop(number)
    assert len(table._keys) <= 2**12
    assert table.find([0, 49_999]).tolist() == [ABSENT, ABSENT]


def test_larger_integers_are_not_taken_for_others() -> None:
    """They do not fit into the table."""
    with pytest.raises(OverflowError):
        IntegerIds().find([1, INTEGER_MAX + 1])
