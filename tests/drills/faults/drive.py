"""Load on a service: as fast as it answers, at a rate of our own, and from callers who leave."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from itertools import count, takewhile
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import uvloop

from tests.support.serving import Wire

PATIENCE = 60.0
"""Longest that any answer is waited for: nothing hangs."""
T = TypeVar("T")


class Request(NamedTuple):
    """A path and a body."""

    path: str
    body: bytes


class Answer(NamedTuple):
    """The outcome of a request; ``seconds`` from sending it to the last byte of its answer.

    ``status`` is 0 where the connection ended without an answer, or the caller left.
    """

    status: int
    seconds: float
    content: bytes = b""
    retry_after: bool = False
    lag: float = 0.0
    """Seconds from the planned moment to the one at which it was sent."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the fastest loop, never held up by the search for garbage cycles."""
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    finally:
        gc.enable()


async def ask(wire: Wire, request: Request) -> Answer:
    """Send a request and wait for its answer, which must come."""
    start = perf_counter()
    async with asyncio.timeout(PATIENCE):
        status, content = await wire.post(*request)
    return Answer(status, perf_counter() - start, content)


async def ask_in_turn(port: int, requests: Iterable[Request], connections: int) -> list[Answer]:
    """Ask on some connections, each as soon as it has its answer; answers in requests' order."""
    found: dict[int, Answer] = {}
    numbered: Iterator[tuple[int, Request]] = enumerate(requests)

    async def caller() -> None:
        wire = await Wire.open(port)
        for number, request in numbered:
            found[number] = await ask(wire, request)
        await wire.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(caller())
    return [found[number] for number in sorted(found)]


async def ask_at_once(wires: list[Wire], requests: list[Request]) -> list[Answer]:
    """Send each request on a connection of its own, all at once."""
    asked = (ask(wire, request) for wire, request in zip(wires, requests, strict=True))
    return await asyncio.gather(*asked)


async def opened(port: int, count: int) -> list[Wire]:
    """Open some connections."""
    return [await Wire.open(port) for _ in range(count)]


async def close(wires: Iterable[Wire]) -> None:
    """Close connections."""
    for wire in wires:
        await wire.close()


async def leave_after(port: int, request: Request, seconds: float) -> Answer:
    """Connect, send, and close the connection if there is no answer after ``seconds``."""
    wire = await Wire.open(port)
    start = perf_counter()
    try:
        async with asyncio.timeout(seconds):
            status, content = await wire.post(*request)
    except TimeoutError:
        return Answer(0, perf_counter() - start)
    finally:
        await wire.close()
    return Answer(status, perf_counter() - start, content)


async def offer(port: int, request: Request, rate: float, seconds: float) -> list[Answer]:
    """Send a request ``rate`` times a second, whatever becomes of the earlier ones."""
    return await offer_in_turn(port, [request], rate, seconds)


async def offer_in_turn(
    port: int, requests: Sequence[Request], rate: float, seconds: float
) -> list[Answer]:
    """Send requests in turn, ``rate`` a second, whatever becomes of the earlier ones.

    Connections are kept and used again; a new one is made when all are waiting.
    """
    total = round(rate * seconds)
    return await _offer(port, requests, rate, lambda number: number < total)


async def offer_while(
    port: int, request: Request, rate: float, lasts: Callable[[], bool]
) -> list[Answer]:
    """Send a request ``rate`` times a second as long as ``lasts`` says so."""
    return await _offer(port, [request], rate, lambda _: lasts())


async def _offer(
    port: int, requests: Sequence[Request], rate: float, lasts: Callable[[int], bool]
) -> list[Answer]:
    idle: list[Wire] = []
    asked: list[asyncio.Task[Answer]] = []

    async def connection() -> Wire:
        # One that the service has closed for being idle is no failure.
        while idle:
            if (wire := idle.pop()).usable:
                return wire
        return await Wire.open(port)

    async def one(request: Request, due: float) -> Answer:
        start = perf_counter()
        try:
            async with asyncio.timeout(PATIENCE):
                wire = await connection()
                status, content = await wire.post(*request)
        except (OSError, EOFError):
            return Answer(0, perf_counter() - start)
        idle.append(wire)
        taken = perf_counter() - start
        return Answer(status, taken, content, "\r\nretry-after: " in wire.head, start - due)

    begin = perf_counter()
    for number in takewhile(lasts, count()):
        due = begin + number / rate
        await asyncio.sleep(max(0.0, due - perf_counter()))
        asked.append(asyncio.create_task(one(requests[number % len(requests)], due)))
    answers = await asyncio.gather(*asked)
    await close(idle)
    return answers
