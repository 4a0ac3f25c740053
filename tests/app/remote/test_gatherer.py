"""Concurrent requests share round trips, and none depends on another one's fate."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from app.remote.gatherer import Gatherer
from app.remote.lookup import Answers, Miss

pytestmark = pytest.mark.anyio
LATER = 60.0


class Oracle:
    """Answers with the key itself, once ``gate`` is open; remembers what it was asked together."""

    def __init__(self) -> None:
        self.rounds: list[list[Miss]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def ask(self, misses: Sequence[Miss]) -> Answers:
        self.rounds.append(list(misses))
        await self.gate.wait()
        return {
            miss: miss[1] if isinstance(miss[1], int) else None
            for miss in misses
            if miss[1] != "unanswered"
        }


def keys(*numbers: int) -> list[Miss]:
    """Misses of one slot."""
    return [("slot", number) for number in numbers]


async def turn() -> None:
    """Let everything that is ready happen."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_misses_of_one_turn_go_together() -> None:
    """Requests of the same turn of the loop share one round trip, each key once in it."""
    oracle = Oracle()
    gatherer = Gatherer(oracle.ask)
    found = await asyncio.gather(*(gatherer.fetch(keys(1, number), LATER) for number in (2, 3, 2)))
    assert found == [{("slot", 1): 1, ("slot", number): number} for number in (2, 3, 2)]
    assert [sorted(each) for each in oracle.rounds] == [keys(1, 2, 3)]


async def test_a_key_that_is_asked_for_is_not_asked_again() -> None:
    """A caller that wants a value that is under way waits for it; afterwards it is asked again."""
    oracle = Oracle()
    gatherer = Gatherer(oracle.ask)
    oracle.gate.clear()
    first = asyncio.create_task(gatherer.fetch(keys(1), LATER))
    await turn()
    second = asyncio.create_task(gatherer.fetch(keys(1), LATER))
    await turn()
    oracle.gate.set()
    assert await first == await second == {("slot", 1): 1}
    await gatherer.fetch(keys(1), LATER)
    assert oracle.rounds == [keys(1), keys(1)]


async def test_while_all_places_are_taken_misses_gather() -> None:
    """Round trips at a time are bounded; what comes meanwhile shares the next."""
    oracle = Oracle()
    gatherer = Gatherer(oracle.ask, round_keys=10, rounds_at_once=2)
    oracle.gate.clear()
    tasks = []
    for number in range(8):
        tasks.append(asyncio.create_task(gatherer.fetch(keys(number), LATER)))
        await turn()
    assert oracle.rounds == [keys(0), keys(1)]
    oracle.gate.set()
    await asyncio.gather(*tasks)
    assert oracle.rounds[2:] == [keys(2, 3, 4, 5, 6, 7)]


async def test_many_keys_are_cut() -> None:
    """No round trip has more keys than allowed; a request gets them all."""
    oracle = Oracle()
    gatherer = Gatherer(oracle.ask, round_keys=10, rounds_at_once=2)
    found = await gatherer.fetch(keys(*range(95)), LATER)
    assert found == {("slot", number): number for number in range(95)}
    assert [len(each) for each in oracle.rounds] == [10] * 9 + [5]


async def test_time_is_bounded() -> None:
    """Whoever has waited long enough goes on with what is there; the round trip goes on too."""
    oracle = Oracle()
    gatherer = Gatherer(oracle.ask)
    oracle.gate.clear()
    assert await gatherer.fetch(keys(1), 0.01) == {}
    late = asyncio.create_task(gatherer.fetch(keys(1), LATER))
    await turn()
    oracle.gate.set()
    assert await late == {("slot", 1): 1}
    assert oracle.rounds == [keys(1)]


async def test_a_cancelled_request_takes_nobody_with_it() -> None:
    """The round trip that a cancelled request began serves those who joined it."""
    oracle = Oracle()
    gatherer = Gatherer(oracle.ask)
    oracle.gate.clear()
    first = asyncio.create_task(gatherer.fetch(keys(1, 2), LATER))
    await turn()
    second = asyncio.create_task(gatherer.fetch(keys(2, 3), LATER))
    await turn()
    first.cancel()
    await turn()
    assert first.cancelled()
    oracle.gate.set()
    assert await second == {("slot", 2): 2, ("slot", 3): 3}


async def test_bad_and_unanswered_keys_are_told_apart() -> None:
    """A value without a usable row is named; one that was not answered is in neither part."""
    gatherer = Gatherer(Oracle().ask)
    misses: list[Miss] = [("slot", 1), ("slot", "bad"), ("slot", "unanswered")]
    assert await gatherer.fetch(misses, LATER) == {("slot", 1): 1, ("slot", "bad"): None}


async def test_closing_answers_everybody() -> None:
    """Nobody waits for ever for what will not be asked any more."""
    oracle = Oracle()
    gatherer = Gatherer(oracle.ask, round_keys=1, rounds_at_once=1)
    oracle.gate.clear()
    waiting = [asyncio.create_task(gatherer.fetch(keys(number), LATER)) for number in range(3)]
    await turn()
    await gatherer.close()
    async with asyncio.timeout(LATER):
        assert await asyncio.gather(*waiting) == [{}] * 3
    assert oracle.rounds == [keys(0)]
