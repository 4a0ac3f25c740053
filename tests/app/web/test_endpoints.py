"""How requests that come at one moment share the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.metrics.requests import RequestMetrics
from app.scoring.limits import Limits
from app.scoring.scorer import Scorer
from app.web.endpoints import LONG_BODY, ScoringEndpoints
from app.web.exchange import Endpoint, Exchange, Header, Route
from app.web.schemas import RankRequest, RankResponse
from app.web.slow_requests import SlowRequests

LISTS = 5
LIMITS = Limits(
    max_body_bytes=2**20,
    max_row_bytes=2**16,
    max_instances=5_000,
    max_candidates=5_000,
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
        state = cast(Any, SimpleNamespace(scorer=SimpleNamespace(version="1")))
        endpoints = ScoringEndpoints(state, lambda _: RequestMetrics(), SlowRequests(0), LIMITS)
        route = Route("rank", {}, cast(Any, prepare), lambda *_: "", RankRequest, RankResponse)
        endpoint = Endpoint(route, RequestMetrics(), SlowRequests(0))
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
