"""The encoded rows of items, by id."""

from __future__ import annotations

import random

import numpy as np

from app.catalogue.catalogue import Catalogue
from app.catalogue.rows import FIRST_ROWS
from app.scoring.items import UNKNOWN


def row(number: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.array([number, -number], np.int32)


def test_an_integer_and_its_text_find_the_same_item() -> None:
    """Whichever way the item was put."""
    held = Catalogue(2, ())
    held.put(7, row(1), {})
    held.put("8", row(2), {})
    held.put("08", row(3), {})
    held.put("-0", row(4), {})
    places = held.find([7, "7", 8, "8", "08", "-0", 0, "", -8])
    assert places.tolist() == [0, 0, 1, 1, 2, 3, UNKNOWN, UNKNOWN, UNKNOWN]
    assert held.ids(places[:6]) == [7, 7, "8", "8", "08", "-0"]
    assert held.rows(places[:1]).tolist() == [[1, -1]]
    large = 2**63
    for identity in (large, str(large + 1), -large, "x"):
        held.put(identity, row(5), {})
        other = int(identity) if isinstance(identity, str) and identity != "x" else str(identity)
        [place] = held.find([identity])
        assert held.find([other, 7, identity, "7"]).tolist() == [place, 0, place, 0]
        assert held.ids(held.find([7, identity])) == [7, identity]
        held.drop(other)
        assert held.find([identity, other]).tolist() == [UNKNOWN, UNKNOWN]
    assert held.find([2**70, 7, "7"]).tolist() == [UNKNOWN, 0, 0]
    held.put("7", row(9), {})
    assert len(held) == 4
    assert held.ids(held.find([7])) == ["7"]


def test_it_holds_what_was_put_last() -> None:
    """After any order of puts, deletions and refusals, as a dictionary would."""
    drawn = random.Random(1)
    held, expected, refused = Catalogue(2, ()), {}, set()
    for turn in range(20_000):
        name = drawn.randrange(2 * FIRST_ROWS)
        identity = name if drawn.random() < 0.5 else str(name)
        action = drawn.random()
        refused.discard(name)
        if action < 0.6:
            held.put(identity, row(turn), {})
            expected[name] = turn
        else:
            expected.pop(name, None)
            if action < 0.9:
                held.drop(identity)
            else:
                held.refuse(identity, "wrong")
                refused.add(name)
    assert len(held) == len(expected) > FIRST_ROWS // 2
    places = held.all()
    found = dict(zip(map(int, held.ids(places)), held.rows(places)[:, 0].tolist(), strict=True))
    assert found == expected
    assert set(map(int, held.refused)) == refused
    keep = {str(name) for name in list(expected)[::2]} | {str(min(refused))}
    held.keep_only(keep)
    assert set(map(str, held.ids(held.all()))) == keep - {str(min(refused))}
    assert set(held.refused) == {str(min(refused))}


def test_rows_that_were_taken_do_not_change() -> None:
    """The place of an item that is gone is used again."""
    held = Catalogue(2, ())
    held.put(1, row(1), {})
    taken = held.rows(held.find([1]))
    held.drop(1)
    held.put(2, row(2), {})
    assert held.find([2]).tolist() == [0]
    assert taken.tolist() == [[1, -1]]
