"""The scoring endpoints' turns of the event loop: whose body is begun when, and goes on when."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.errors import Overloaded
from app.metrics.requests import RequestMetrics
from app.scoring.scorer import Scorer
from app.web.access_log import AccessLog
from app.web.endpoints import LONG_BODY, ScoringEndpoints
from app.web.exchange import Endpoint, Exchange, Route
from app.web.schemas import RankRequest, RankResponse
from app.web.slow_requests import SlowRequests
from tests.support.exchanges import LIMITS, Kept, answered, asked, endpoints_over
from tests.support.turns import until

LISTS = 5


@pytest.mark.parametrize(
    ("size", "at_once"), [(LONG_BODY, 1), (2 * LONG_BODY, 1), (LONG_BODY - 1, LISTS)]
)
def test_one_long_body_is_begun_in_a_turn_of_the_loop(size: int, at_once: int) -> None:
    """However many have come: what else there is to do has its turn before the next of them."""
    begun: list[Exchange] = []

    def prepare(scorer: Scorer, body: bytes, exchange: Exchange) -> Iterator[None]:
        begun.append(exchange)
        yield None

    async def scene() -> None:
        state = cast(Any, SimpleNamespace(scorer=SimpleNamespace(version="1"), trial=None))
        endpoints = ScoringEndpoints(
            state, lambda _: RequestMetrics(), SlowRequests(0), LIMITS, AccessLog()
        )
        route = Route(
            "rank", {}, cast(Any, prepare), lambda *_: "", lambda *_: "", RankRequest, RankResponse
        )
        endpoint = Endpoint(route, RequestMetrics(), SlowRequests(0), AccessLog())
        exchanges = [Kept(endpoint) for _ in range(LISTS)]
        for exchange in exchanges:
            exchange.deadline = asyncio.get_running_loop().time() + 60
            endpoints.begin(exchange, bytes(size))
        assert len(begun) == at_once
        while len(begun) < LISTS:
            before = len(begun)
            await asyncio.sleep(0)
            assert len(begun) <= before + 1
        assert begun == exchanges, "they have their turns in order"
        async with asyncio.timeout(30):
            while endpoints._unfinished:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
        alone = Kept(endpoint)
        alone.deadline = exchanges[0].deadline
        endpoints.begin(alone, bytes(size))
        assert begun[LISTS:] == [alone], "nobody is before it"

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("error", "status"), [(Overloaded("full", 1.0), 429), (ValueError("of ours"), 500)]
)
@pytest.mark.parametrize("turns", [None, 0, 1, 2], ids=["no step", "first", "second", "third"])
@pytest.mark.parametrize("size", [2, LONG_BODY])
def test_a_step_that_fails_is_answered(
    error: Exception, status: int, turns: int | None, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it fails at once or after turns of others, in a short body or in a long one."""
    monkeypatch.setattr("app.web.endpoints.HOLD_SECONDS", -1.0)

    def steps() -> Iterator[None]:
        for _ in range(turns or 0):
            yield None
        raise error

    def refuse(*_: object) -> Iterator[None]:
        raise error

    async def scene() -> None:
        exchange = asked(steps())
        if turns is None:
            route = replace(exchange.endpoint.route, prepare=cast(Any, refuse))
            exchange.endpoint = replace(exchange.endpoint, route=route)
        endpoints_over().begin(exchange, bytes(size))
        if not turns:
            assert exchange.answer is not None, "at once"
        assert await answered(exchange) == status

    asyncio.run(scene())


@pytest.mark.parametrize(("hold", "at_once"), [(60.0, 5), (-1.0, 1)])
def test_a_request_holds_the_loop_for_a_while_and_goes_on_later(
    hold: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be done within the time is; the rest takes its turns with everybody else."""
    monkeypatch.setattr("app.web.endpoints.HOLD_SECONDS", hold)

    async def scene() -> None:
        done: list[int] = []

        def steps() -> Iterator[None]:
            for number in range(5):
                done.append(number)
                yield None

        endpoints_over().begin(asked(steps()), b"{}")
        assert len(done) == at_once
        await asyncio.sleep(0)
        for _ in range(10):
            before = len(done)
            await asyncio.sleep(0)
            assert len(done) <= before + 1
        assert len(done) == 5, "a step in a turn or two"
        # One that had to wait goes on as far as the time allows.
        waited: list[int] = []
        value = asyncio.get_running_loop().create_future()

        def later() -> Iterator[Any]:
            yield value
            for number in range(5):
                waited.append(number)
                yield None

        endpoints_over().begin(asked(later()), b"{}")
        await asyncio.sleep(0)
        assert waited == []
        value.set_result(None)
        while not waited:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert len(waited) == at_once

    asyncio.run(scene())


def test_a_body_that_is_short_in_one_step_takes_no_others() -> None:
    """The route has submitted it then."""

    async def scene() -> None:
        def steps() -> Iterator[None]:
            raise AssertionError
            yield

        endpoints = endpoints_over()
        endpoints.begin(exchange := asked(steps(), short=True), b"{}")
        await asyncio.sleep(0)
        assert exchange.answer is None
        assert exchange.version == "1"
        assert exchange.received > 0

    asyncio.run(scene())


def test_a_long_body_that_waits_for_its_values_lets_the_next_one_go_on() -> None:
    """One that is being read keeps the others in their order."""

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        value, ended = loop.create_future(), []

        def steps(waits: bool) -> Iterator[Any]:
            try:
                yield value if waits else None
                ended.append(waits)
            finally:
                ended.append("closed")

        endpoints = endpoints_over()
        for waits in (True, False):
            endpoints.begin(asked(steps(waits)), bytes(LONG_BODY))
        async with asyncio.timeout(30):
            while len(ended) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert ended == [False, "closed"]
            value.set_result(None)
            while len(ended) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0)

    asyncio.run(scene())


@pytest.mark.parametrize("gone", [True, False], ids=["departed", "late"])
def test_steps_are_not_taken_for_nobody(gone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that has left, or whose deadline passed: the rest of its body is not read."""

    async def scene() -> None:
        loop, closed = asyncio.get_running_loop(), []
        value = loop.create_future()

        def steps() -> Iterator[Any]:
            try:
                yield value
                raise AssertionError
            finally:
                closed.append(True)

        exchange = asked(steps())
        endpoints_over().begin(exchange, b"{}")
        if gone:
            monkeypatch.setattr(Kept, "departed", lambda _: True)
        else:
            exchange.deadline = loop.time() - 0.001
        value.set_result(None)
        assert await answered(exchange) == 504
        assert closed == [True]

    asyncio.run(scene())


@pytest.mark.parametrize("size", [2, LONG_BODY])
def test_every_value_is_there_before_the_next_step(size: int) -> None:
    """Those that are awaited later as those that are awaited first."""

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        values = [loop.create_future() for _ in range(2)]
        seen: list[bool] = []

        def steps() -> Iterator[Any]:
            for value in values:
                yield value
                seen.append(value.done())

        endpoints_over().begin(asked(steps()), bytes(size))
        values[0].set_result(None)
        await until(lambda: seen)
        values[1].set_result(None)
        await until(lambda: len(seen) == 2)
        assert seen == [True, True]

    asyncio.run(scene())


def test_a_long_body_of_a_later_turn_has_its_turn_after_those_that_wait() -> None:
    """It overtakes nobody, and the loop is not held for it beside them."""

    async def scene() -> None:
        begun: list[int] = []

        def steps(number: int) -> Iterator[None]:
            begun.append(number)
            yield None

        endpoints = endpoints_over()
        for number in range(3):
            endpoints.begin(asked(steps(number)), bytes(LONG_BODY))
        await asyncio.sleep(0)
        assert begun == [0]
        endpoints.begin(asked(steps(3)), bytes(LONG_BODY))
        await until(lambda: len(begun) == 4)
        assert begun == [0, 1, 2, 3]

    asyncio.run(scene())


def test_a_short_body_is_begun_at_once_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they wait for; one that is done by then needs no task."""
    monkeypatch.setattr("app.web.endpoints.HOLD_SECONDS", 60.0)

    async def scene() -> None:
        held = asyncio.get_running_loop().create_future()
        done: list[int] = []

        def waits() -> Iterator[Any]:
            yield held

        def steps() -> Iterator[None]:
            done.append(1)
            yield None

        endpoints = endpoints_over()
        endpoints.begin(asked(waits()), bytes(LONG_BODY))
        (other,) = endpoints._unfinished
        for count in (1, 2):
            endpoints.begin(asked(steps()), b"{}")
            assert len(done) == count, "in the same turn, and in a later one"
            assert endpoints._unfinished == {other}
            await asyncio.sleep(0)
        held.set_result(None)
        await other

    asyncio.run(scene())


def test_the_rest_of_a_short_body_does_not_wait_for_long_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only long ones queue for each other."""
    monkeypatch.setattr("app.web.endpoints.HOLD_SECONDS", -1.0)

    async def scene() -> None:
        def steps(count: int, done: list[int]) -> Iterator[None]:
            for number in range(count):
                done.append(number)
                yield None

        long: list[int] = []
        short: list[int] = []
        endpoints = endpoints_over()
        endpoints.begin(asked(steps(1_000, long)), bytes(LONG_BODY))
        endpoints.begin(asked(steps(5, short)), b"{}")
        await until(lambda: len(short) == 5)
        assert len(long) < 1_000
        endpoints.close()
        await until(lambda: not endpoints._unfinished)

    asyncio.run(scene())
