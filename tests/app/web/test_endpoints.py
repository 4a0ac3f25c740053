"""The scoring endpoints: heads, turns of the event loop, the form of answers, the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from app.features.graph_inputs import Scores
from app.metrics.requests import SCORING, RequestMetrics
from app.scoring.limits import Limits
from app.scoring.scorer import Scorer
from app.web.access_log import AccessLog
from app.web.endpoints import LONG_BODY, ROUTES, ScoringEndpoints
from app.web.exchange import Endpoint, Exchange, Header, Route
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


@pytest.mark.parametrize(("size", "at_once"), [(LONG_BODY, 1), (LONG_BODY - 1, LISTS)])
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

    asyncio.run(scene())


class Kept(Asked):
    """A request that keeps its answer."""

    answer: tuple[int, bytes] | None = None

    def write(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
        self.answer = status, body


def endpoints_over() -> ScoringEndpoints:
    """Endpoints whose scorer takes everything."""
    scorer = SimpleNamespace(version="1", admit=lambda rows, deadline: None)
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
