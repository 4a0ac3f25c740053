"""The scoring endpoints: heads, turns of the event loop, the form of answers, the end."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from app.errors import Overloaded
from app.features.graph_inputs import Scores
from app.metrics.requests import SCORING, RequestMetrics
from app.scoring.limits import Limits
from app.scoring.scorer import Scorer
from app.web.access_log import AccessLog
from app.web.endpoints import LONG_BODY, ROUTES, ScoringEndpoints
from app.web.exchange import Endpoint, Exchange, Header, Route
from app.web.known_heads import KnownHead
from app.web.schemas import RankRequest, RankResponse
from app.web.slow_requests import SlowRequests

LISTS = 5
LIMITS = Limits(
    max_body_bytes=2**20,
    max_row_bytes=2**16,
    max_instances=5_000,
    max_candidates=5_000,
    max_catalogue_rows=5_000,
    known_fields_only=False,
    receive_seconds=60.0,
    deadline_seconds=60.0,
)


class Asked(Exchange):
    """A request whose caller stays."""

    def departed(self) -> bool:
        return False

    def write(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
        pass


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
        exchanges = [Asked(endpoint) for _ in range(LISTS)]
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
        alone = Asked(endpoint)
        alone.deadline = exchanges[0].deadline
        endpoints.begin(alone, bytes(size))
        assert begun[LISTS:] == [alone], "nobody is before it"

    asyncio.run(scene())


class Kept(Asked):
    """A request that keeps its answer."""

    answer: tuple[int, bytes] | None = None

    def write(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
        self.answer = status, body


def endpoints_over(
    admit: Callable[[int, float], None] = lambda rows, deadline: None,
) -> ScoringEndpoints:
    """Endpoints whose scorer takes everything, or what it admits."""
    scorer = SimpleNamespace(version="1", admit=admit)
    state = cast(Any, SimpleNamespace(scorer=scorer, trial=None))
    return ScoringEndpoints(state, lambda _: RequestMetrics(), SlowRequests(0), LIMITS, AccessLog())


@pytest.mark.parametrize(("given", "seconds"), [(b"250", 0.25), (b"60001", 60.0), (b"1", 0.001)])
def test_a_caller_may_shorten_its_deadline_but_not_lengthen_it(
    given: bytes, seconds: float
) -> None:
    """``X-Request-Timeout-Ms`` beyond the service's own limit changes nothing."""

    async def scene() -> None:
        endpoints = endpoints_over()
        exchange = Kept(endpoints.by_path["/predict"])
        now = asyncio.get_running_loop().time()
        assert endpoints.open(exchange, [(b"x-request-timeout-ms", given)])
        later = asyncio.get_running_loop().time()
        assert now + seconds - 1e-6 <= exchange.deadline <= later + seconds + 1e-6

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ((b"x-request-timeout-ms", b"250"), None),
        ((b"x-request-timeout-ms", b"0"), 422),
        ((b"content-type", b"text/plain"), 415),
        ((b"content-encoding", b"gzip"), 415),
        ((b"content-length", b"%d" % (LIMITS.max_body_bytes + 1)), 413),
    ],
)
@pytest.mark.parametrize("first", [True, False], ids=["id first", "id last"])
def test_headers_count_in_any_order(header: Header, status: int | None, first: bool) -> None:
    """Those after the caller's id too; what is refused by another has the id in its answer."""

    async def scene() -> None:
        endpoints = endpoints_over()
        exchange = Kept(endpoints.by_path["/predict"])
        headers = [(b"x-request-id", b"mine"), header]
        now = asyncio.get_running_loop().time()
        taken = endpoints.open(exchange, headers if first else headers[::-1])
        assert exchange.request_id == b"mine"
        if status is None:
            assert taken
            assert exchange.deadline < now + 60
        else:
            assert not taken
            assert exchange.answer is not None
            assert exchange.answer[0] == status

    asyncio.run(scene())


def test_equal_logits_keep_the_requests_order() -> None:
    """A hundred candidates of five distinct scores; five would keep their order by luck."""
    logit = np.array([number % 5 for number in range(100)], np.float32)
    (route,) = (route for route in ROUTES if route.name == "rank")
    exchange = Kept(Endpoint(route, RequestMetrics(), SlowRequests(0), AccessLog()))
    for top_k in (None, 100, 37):
        exchange.top_k = top_k
        ranking = json.loads(route.render(exchange, Scores(logit, logit)))["ranking"]
        expected = sorted(range(100), key=lambda index: -(index % 5))
        assert [place["index"] for place in ranking] == expected[:top_k]


def test_the_end_answers_what_is_held_up() -> None:
    """A request whose values are still being fetched gets its 503 at once, not at its deadline."""

    async def scene() -> None:
        endpoints = endpoints_over()
        held = asyncio.get_running_loop().create_future()

        def prepare(scorer: Scorer, body: bytes, exchange: Exchange) -> Iterator[Any]:
            yield held

        route = Route(
            "rank", {}, cast(Any, prepare), lambda *_: "", lambda *_: "", RankRequest, RankResponse
        )
        endpoint = Endpoint(route, RequestMetrics(), SlowRequests(0), AccessLog())
        fetching, reading = Kept(endpoint), Kept(endpoint)
        for exchange in (fetching, reading):
            exchange.deadline = asyncio.get_running_loop().time() + 60
        endpoints.begin(fetching, b"{}")
        endpoints.await_body(reading)
        await asyncio.sleep(0)
        endpoints.close()
        for _ in range(3):
            await asyncio.sleep(0)
        for exchange in (fetching, reading):
            assert exchange.answer is not None
            assert exchange.answer[0] == 503
            assert b"shutting down" in exchange.answer[1]

    asyncio.run(scene())


def test_every_route_has_its_metrics_and_its_path() -> None:
    """Metrics count by the names of the routes; a name in a path is one word."""
    endpoints = endpoints_over()
    named = [*(route.name for route in ROUTES), endpoints.explain.route.name]
    assert sorted(named) == sorted(SCORING)
    for path, name in {
        "/predict": "predict",
        "/rank": "rank",
        "/v1/models/ctr:predict": "predict",
        "/v1/models/any.name-1:predict": "predict",
        "/v1/models/a/b:predict": None,
        "/v1/models/a:b:predict": None,
        "/v1/models/:predict": None,
        "/explain": None,
        "/predict/": None,
        "/": None,
    }.items():
        found = endpoints.find(path)
        assert (found.route.name if found else None) == name, path


def asked(steps: Iterator[Any], short: bool = False, seconds: float = 60.0) -> Kept:
    """A request of a route whose steps these are; within a loop."""
    route = Route(
        "rank", {}, cast(Any, lambda *_: steps), lambda *_: "", lambda *_: "", RankRequest,
        RankResponse, short=lambda *_: short,
    )  # fmt: skip
    found = Kept(Endpoint(route, RequestMetrics(), SlowRequests(0), AccessLog()))
    found.deadline = asyncio.get_running_loop().time() + seconds
    return found


async def answered(exchange: Kept) -> int:
    """Wait for an answer; return its status."""
    async with asyncio.timeout(30):
        while exchange.answer is None:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
    return exchange.answer[0]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"x-other", b"?"), (b"x-request-timeout-ms", b"0")], 422),
        ([(b"x-request-timeout-ms", b"999999999")], None),
        ([(b"x-request-timeout-ms", b"1000000000")], 422),
        ([(b"x-request-timeout-ms", b"1.5")], 422),
        ([(b"content-length", b"%d" % LIMITS.max_body_bytes)], None),
        ([(b"content-type", b"Application/JSON ; charset=utf-8")], None),
        ([(b"content-type", b"application/vnd.api+json; x=a")], None),
        ([(b"content-type", b"text/json")], 415),
        ([(b"content-type", b"")], 415),
        ([(b"content-encoding", b" Identity ")], None),
        ([(b"content-encoding", b"")], None),
        ([(b"content-type", b"text/plain"), (b"x-request-timeout-ms", b"0")], 415),
        ([(b"x-request-timeout-ms", b"0"), (b"content-type", b"text/plain")], 422),
    ],
)
def test_heads_are_taken_or_refused_by_their_first_fault(
    headers: list[Header], status: int | None
) -> None:
    """Type and encoding in any spelling; lengths and times up to their limits."""

    async def scene() -> None:
        endpoints = endpoints_over()
        exchange = Kept(endpoints.by_path["/predict"])
        assert endpoints.open(exchange, headers) is (status is None)
        assert (exchange.answer and exchange.answer[0]) == status

    asyncio.run(scene())


def test_an_id_is_the_callers_or_a_new_one() -> None:
    """Up to 128 characters that are seen; no two new ones are equal."""

    async def scene() -> None:
        endpoints = endpoints_over()

        def id_for(given: bytes) -> bytes:
            exchange = Kept(endpoints.by_path["/predict"])
            assert endpoints.open(exchange, [(b"x-request-id", given)])
            return exchange.request_id

        assert id_for(b"!" * 127 + b"~") == b"!" * 127 + b"~"
        new = [id_for(given) for given in (b"a" * 129, b"a b", b"", b"\xe4", b"a\n")]
        assert len(set(new)) == 5
        assert all(re.fullmatch(b"[0-9a-f]{12}-[1-5]", each) for each in new)

    asyncio.run(scene())


def test_the_queue_is_asked_before_a_body_is_read() -> None:
    """For one row, by its deadline; where a known head announces a short body, which has come,
    it is not asked."""

    async def scene() -> None:
        seen: list[tuple[int, float]] = []

        def admit(rows: int, deadline: float) -> None:
            seen.append((rows, deadline))
            raise Overloaded("the scoring queue is full", 1.0)

        endpoints = endpoints_over(admit)
        endpoint = endpoints.by_path["/predict"]
        first = Kept(endpoint)
        assert not endpoints.open(first, [(b"x-request-timeout-ms", b"250")])
        assert seen == [(1, first.deadline)]
        for length, taken in ((LONG_BODY, False), (2 * LONG_BODY, False), (LONG_BODY - 1, True)):
            exchange = Kept(endpoint)
            known = KnownHead(endpoint, length, 0.5)
            assert endpoints.open_known(exchange, b"mine", known, 1000.0) is taken
            assert (exchange.request_id, exchange.deadline) == (b"mine", 1000.5)
            assert (exchange.answer and exchange.answer[0]) == (None if taken else 429)
        assert seen[1:] == [(1, 1000.5)] * 2
        known = KnownHead(endpoint, 2, 0.5)
        assert endpoints.open_known(unnamed := Kept(endpoint), b"", known, 1000.0)
        assert unnamed.request_id.endswith(b"-2"), "the second new one"
        assert endpoints.seconds_of([]) == 60.0
        given = [(b"x-request-timeout-ms", b"%d" % each) for each in (400, 250, 300)]
        assert endpoints.seconds_of([(b"content-length", b"1"), *given]) == 0.25

    asyncio.run(scene())


def test_the_end_leaves_alone_whose_body_has_come() -> None:
    """Its rows are in the queue, which answers it."""

    async def scene() -> None:
        endpoints = endpoints_over()
        come, coming = Kept(endpoints.by_path["/rank"]), Kept(endpoints.by_path["/rank"])
        for exchange in (come, coming):
            endpoints.await_body(exchange)
        endpoints.body_ended(come)
        endpoints.close()
        assert come.answer is None
        assert await answered(coming) == 503

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
