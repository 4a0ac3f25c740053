"""The item parts of a catalogue follow its rows."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from app.catalogue import item_parts
from app.catalogue.catalogue import Catalogue
from app.catalogue.item_parts import ItemParts
from app.catalogue.parts_file import PREFIX, PartsFile
from app.errors import EngineFailed, ValueProblem
from app.features.arrays import Floats, Indices
from app.scoring.job import NO_SLOT

pytestmark = pytest.mark.anyio
Made = Callable[..., Catalogue]


def compute(rows: Indices) -> list[Floats]:
    return [(rows[:, :1] * 7 + rows[:, 1:]).astype(np.float32)]


class Split:
    """Computes what it is told to; the vector of an item is its number."""

    def __init__(self, how: Callable[[Indices], list[Floats]], has_first_cut: bool = True) -> None:
        self.item_parts = how
        self.has_first_cut = has_first_cut

    def vector(self, context: Indices) -> Floats:
        return context[0].astype(np.float32)


def row(number: int) -> Indices:
    return np.array([number, -number], np.int32)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Made]:
    catalogues: list[Catalogue] = []

    def make(
        most: int = 2**22,
        how: Callable[[Indices], list[Floats]] = compute,
        first_cut: bool = True,
    ) -> Catalogue:
        catalogue = Catalogue(2, ())
        file = PartsFile(tmp_path / f"{PREFIX}a-{len(catalogues)}.parts", [1], 0, 1, most)
        catalogue.build(ItemParts(file, Split(how, first_cut)))
        catalogues.append(catalogue)
        return catalogue

    yield make
    for each in catalogues:
        assert each.parts is not None
        await each.parts.close()
    assert os.listdir(tmp_path) == []


def check(catalogue: Catalogue) -> None:
    """Every item has the part of its row."""
    places = catalogue.all()
    found = catalogue.slots(places)
    assert found is not None
    assert catalogue.parts is not None
    assert (found.of_rows != NO_SLOT).all()
    numbers = catalogue.parts.arrays[0][found.of_rows]
    assert (numbers == compute(catalogue.rows(places))[0]).all()
    assert catalogue.parts.count == len(catalogue)


async def mended(parts: ItemParts) -> None:
    async with asyncio.timeout(60):
        while parts.problem is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_they_are_those_of_the_rows(made: Made) -> None:
    """Through any order of puts and deletions, some of them while parts are computed."""
    catalogue, drawn = made(), random.Random(2)
    assert catalogue.parts is not None
    for turn in range(3_000):
        name = drawn.randrange(700)
        if drawn.random() < 0.3:
            catalogue.drop(name)
        else:
            catalogue.put(name, row(drawn.randrange(900)), {})
        if turn % 50 == 0:
            await asyncio.sleep(0)
        if turn % 500 == 499:
            await catalogue.parts.built()
            check(catalogue)


async def test_nobody_waits_for_parts_that_do_not_come(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A service starts without them; they are used once they are there."""
    monkeypatch.setattr(item_parts, "STALLED_SECONDS", 0.05)
    goes_on = threading.Event()

    def slowly(rows: Indices) -> list[Floats]:
        goes_on.wait(60)
        return compute(rows)

    catalogue = made(how=slowly)
    assert catalogue.parts is not None
    catalogue.put(1, row(1), {})
    await catalogue.parts.built()
    assert catalogue.parts.count == 0
    assert "item parts: none of 1 came in 0.05 s" in caplog.text
    goes_on.set()
    monkeypatch.setattr(item_parts, "STALLED_SECONDS", 60.0)
    await catalogue.parts.built()
    check(catalogue)


async def test_what_a_request_may_read_stays(made: Made) -> None:
    """A slot is not given to other rows while a lease from before its change is held."""
    catalogue = made(most=100_000)
    assert catalogue.parts is not None
    catalogue.put("a", row(1), {})
    await catalogue.parts.built()
    before = catalogue.slots(catalogue.find(["a"]))
    assert before is not None
    numbers = catalogue.parts.arrays[0]
    for turn in range(40):
        for name in range(100):
            catalogue.put(name, row(1_000 + 100 * turn + name), {})
        catalogue.put("a", row(9_000 + turn), {})
        await catalogue.parts.built()
        check(catalogue)
        if turn < 12:
            assert numbers[before.of_rows].tolist() == compute(row(1)[None])[0].tolist()
        elif turn == 12:
            before = before._replace(lease=None)


async def test_an_item_that_is_the_same_keeps_its_part(made: Made) -> None:
    """An item that is put again and again, unchanged, is computed once."""
    calls: list[int] = []

    def counted(rows: Indices) -> list[Floats]:
        calls.append(len(rows))
        return compute(rows)

    catalogue = made(how=counted)
    assert catalogue.parts is not None
    for _ in range(5):
        catalogue.put(1, row(1), {})
        await catalogue.parts.built()
    assert calls == [1]


async def test_without_room_the_reason_is_told(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are built once there is room."""
    monkeypatch.setattr(item_parts, "RETRY_SECONDS", 0.02)
    catalogue = made(most=60_000)
    assert catalogue.parts is not None
    for name in range(4_000):
        catalogue.put(name, row(name), {})
    await catalogue.parts.built()
    assert catalogue.parts.problem is not None
    assert "CTR_ITEM_PARTS_BYTES" in catalogue.parts.problem
    assert 0 < catalogue.parts.count < 4_000
    for name in range(10, 4_000):
        catalogue.drop(name)
    await mended(catalogue.parts)
    check(catalogue)


async def test_a_failing_engine_is_tried_again(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then items are scored from their indices."""
    monkeypatch.setattr(item_parts, "RETRY_SECONDS", 0.02)
    broken = True

    def fails(rows: Indices) -> list[Floats]:
        if broken:
            raise EngineFailed("the engine failed: no")
        return compute(rows)

    catalogue = made(how=fails)
    assert catalogue.parts is not None
    catalogue.put(1, row(1), {})
    await catalogue.parts.built()
    assert catalogue.parts.problem == "the engine failed: no"
    found = catalogue.slots(catalogue.find([1]))
    assert found is not None
    assert found.of_rows.tolist() == [NO_SLOT]
    broken = False
    await mended(catalogue.parts)
    check(catalogue)


def by_hand(catalogue: Catalogue, places: Indices, sign: int, most: int) -> list[int]:
    numbers = sign * compute(catalogue.rows(places))[0][:, 0]
    return sorted(places[np.argsort(-numbers, kind="stable")[:most]].tolist())


async def test_the_first_cut_is_the_best_of_the_places(made: Made) -> None:
    """Of all places or few, with items that have no part yet, and fewer than are asked for."""
    catalogue = made()
    assert catalogue.parts is not None
    for number in range(1, 401):
        catalogue.put(number, row((number * 37) % 401), {})
    await catalogue.parts.built()
    for number in range(401, 440):
        catalogue.put(number, row(number), {})
    for places in (catalogue.all(), catalogue.all()[::29], catalogue.find([405, 3, 9])):
        for sign in (1, -1):
            context = np.array([[sign]], np.int32)
            for most in (1, 2, 7, len(places), len(places) + 1):
                found = catalogue.first_cut(places, context, most)().tolist()
                assert sorted(found) == by_hand(catalogue, places, sign, most)
                assert found == [place for place in places.tolist() if place in found]


async def test_a_first_cut_that_cannot_be_made_is_refused(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a network that has none, and where too many items have no part."""
    places, context = np.zeros(1, np.int32), np.ones((1, 1), np.int32)
    with pytest.raises(ValueProblem, match="this network has no first cut"):
        made(first_cut=False).first_cut(places, context, 1)
    monkeypatch.setattr(item_parts, "MOST_ABSENT", 2)
    catalogue = made()
    for number in range(3):
        catalogue.put(number, row(number), {})
    with pytest.raises(ValueProblem, match="3 items have no item part"):
        catalogue.first_cut(catalogue.all(), context, 1)
    with pytest.raises(ValueProblem, match="no item parts are held"):
        Catalogue(2, ()).first_cut(places, context, 1)
