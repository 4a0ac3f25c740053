"""The scoring endpoints: heads, routes, the form of answers, the end."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from app.errors import Overloaded
from app.features.graph_inputs import Scores
from app.metrics.requests import SCORING, RequestMetrics
from app.scoring.scorer import Scorer
from app.scoring.trace import Trace
from app.web.access_log import AccessLog
from app.web.endpoints import LONG_BODY, ROUTES, ScoringEndpoints
from app.web.exchange import Endpoint, Exchange, Header, Route
from app.web.known_heads import KnownHead
from app.web.schemas import RankRequest, RankResponse
from app.web.slow_requests import SlowRequests
from tests.support.exchanges import LIMITS, Kept, answered, asked, endpoints_over


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
        "/v1/models/ctr:predict/": None,
        "/v1/models/ctr:predicts": None,
        "/v2/models/ctr/infer": "infer",
        "/v2/models/ctr/infer/more": None,
        "/explain": None,
        "/predict/": None,
        "/": None,
    }.items():
        found = endpoints.find(path)
        assert (found.route.name if found else None) == name, path


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


def test_each_route_counts_with_the_metrics_of_its_name() -> None:
    """Whatever path of it was asked."""
    made: dict[str, RequestMetrics] = {}
    endpoints = ScoringEndpoints(
        cast(Any, SimpleNamespace()),
        lambda name: made.setdefault(name, RequestMetrics()),
        SlowRequests(0),
        LIMITS,
        AccessLog(),
    )
    for path, name in {
        "/predict": "predict",
        "/v1/models/ctr:predict": "predict",
        "/rank": "rank",
        "/v2/models/ctr/infer": "infer",
    }.items():
        found = endpoints.find(path)
        assert found is not None
        assert found.metrics is made[name]
    assert endpoints.explain.metrics is made["explain"]


def test_a_route_takes_the_types_that_it_names() -> None:
    """Binary tensors where tensors are read, and nowhere else."""

    async def scene() -> None:
        endpoints = endpoints_over()
        for path, status in (("/v2/models/ctr/infer", None), ("/predict", 415)):
            endpoint = endpoints.find(path)
            assert endpoint is not None
            exchange = Kept(endpoint)
            headers = [(b"content-type", b"application/octet-stream")]
            assert endpoints.open(exchange, headers) is (status is None)
            assert (exchange.answer and exchange.answer[0]) == status

    asyncio.run(scene())


def test_requests_take_part_in_a_trial() -> None:
    """While there is one; the key of a request tells whose it is."""

    async def scene() -> None:
        endpoints = endpoints_over()
        cast(Any, endpoints._state).trial = SimpleNamespace(
            keys=SimpleNamespace(of_context=lambda body: body),
            takes=lambda key: key == b"its",
            scorer=SimpleNamespace(version="2"),
            counts=None,
            live_counts=None,
        )
        for body, version in ((b"its", "2"), (b"another's", "1")):
            endpoints.begin(exchange := asked(iter(())), body)
            assert exchange.version == version

    asyncio.run(scene())


def test_what_may_have_to_be_logged_has_a_trace() -> None:
    """On the routes whose requests are scored; the log tells by the request's id."""
    trace = Trace(b"{}", None)
    log = cast(Any, SimpleNamespace(may_hold=lambda name: name == b"mine", trace=lambda *_: trace))

    async def scene() -> None:
        encoder = object()
        scorer = SimpleNamespace(version="1", encoder=encoder)
        state = cast(Any, SimpleNamespace(scorer=scorer, trial=None))
        endpoints = ScoringEndpoints(
            state, lambda _: RequestMetrics(), SlowRequests(0), LIMITS, AccessLog(), log
        )
        for path in ("/predict", "/rank", "/v1/models/ctr:predict", "/v2/models/ctr/infer"):
            found = endpoints.find(path)
            assert found is not None
            assert found.request_log is log
        assert endpoints.explain.request_log is None
        for name, expected in ((b"mine", (trace, encoder)), (b"yours", (None, None))):
            exchange = asked(iter(()))
            exchange.endpoint = replace(exchange.endpoint, request_log=log)
            exchange.request_id = name
            endpoints.begin(exchange, b"{}")
            assert (exchange.trace, exchange.encoder) == expected

    asyncio.run(scene())


def test_the_end_answers_all_whose_bodies_are_coming() -> None:
    """An answer ends the waiting for a body, as it does on a connection."""

    async def scene() -> None:
        endpoints = endpoints_over()

        class Coming(Kept):
            def write(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
                super().write(status, body, headers)
                endpoints.body_ended(self)

        coming = [Coming(endpoints.by_path["/rank"]) for _ in range(3)]
        for exchange in coming:
            endpoints.await_body(exchange)
        endpoints.close()
        assert [exchange.answer and exchange.answer[0] for exchange in coming] == [503] * 3

    asyncio.run(scene())
