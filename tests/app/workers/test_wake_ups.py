"""Tasks that do something every so often wake the process together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from app.workers.wake_ups import until_next


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("seconds", [0.004, 0.25, 1.0, 2.0, 3_600.0])
def test_a_wait_ends_at_a_whole_multiple(run: Callable[..., Any], seconds: float) -> None:
    """It is never longer than the period, so nothing is done more rarely than is asked for."""

    async def waits() -> list[tuple[float, float, float]]:
        clock, found = asyncio.get_running_loop().time, []
        for _ in range(20):
            found.append((clock(), until_next(seconds), clock()))
            await asyncio.sleep(0.001)
        return found

    for before, wait, after in run(waits()):
        assert 0 < wait <= seconds
        first = math.ceil((before + wait) / seconds - 1e-6)
        assert first <= (after + wait) / seconds + 1e-6


def test_two_tasks_wake_the_loop_once() -> None:
    """Whenever each of them began: what is due together is done in one turn of the loop."""

    async def due() -> list[tuple[int, int]]:
        """For each task the multiple that it waits for, and the turn in which that comes."""
        loop, found = asyncio.get_running_loop(), []
        turn = 0

        def count() -> None:
            nonlocal turn
            turn += 1
            loop.call_soon(count)

        async def each(late: float) -> None:
            await asyncio.sleep(late)
            wait = until_next(0.2)
            wanted = round((loop.time() + wait) / 0.2)
            await asyncio.sleep(wait)
            found.append((wanted, turn))

        waiting = asyncio.gather(each(0.0), each(0.003))
        await asyncio.sleep(0.01)
        loop.call_soon(count)
        await waiting
        return found

    first, second = uvloop.run(due())
    # On a busy machine the later one may come after the first one's multiple.
    while first[0] != second[0]:
        first, second = uvloop.run(due())
    assert first == second
