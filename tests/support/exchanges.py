"""Requests that are on no connection, and the scoring endpoints over a scorer that is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

from app.metrics.requests import RequestMetrics
from app.scoring.limits import Limits
from app.web.access_log import AccessLog
from app.web.endpoints import ScoringEndpoints
from app.web.exchange import Endpoint, Exchange, Header, Route
from app.web.schemas import RankRequest, RankResponse
from app.web.slow_requests import SlowRequests

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


class Kept(Exchange):
    """A request whose caller stays, and that keeps its answer."""

    answer: tuple[int, bytes] | None = None

    def departed(self) -> bool:
        return False

    def write(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
        self.answer = status, body


def endpoints_over(
    admit: Callable[[int, float], None] = lambda rows, deadline: None,
) -> ScoringEndpoints:
    """Endpoints whose scorer takes everything, or what it admits."""
    scorer = SimpleNamespace(version="1", admit=admit)
    state = cast(Any, SimpleNamespace(scorer=scorer, trial=None))
    return ScoringEndpoints(state, lambda _: RequestMetrics(), SlowRequests(0), LIMITS, AccessLog())


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
