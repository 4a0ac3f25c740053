"""The scoring endpoints: one straight line from a request's bytes to its answer's.

They stand in front of the application's middleware, so they do for themselves what every
answer needs: limits, request ids, metrics, the one error shape. An adapter brings the bytes:
``app.web.protocol`` from uvicorn's own parser, ``app.web.asgi`` from any ASGI server.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from itertools import count
from time import perf_counter
from typing import Protocol

from app.errors import (
    DeadlinePassed,
    Detail,
    Invalid,
    NotReady,
    ServiceError,
    TooLarge,
    Undecodable,
    WrongMediaType,
)
from app.explain.explaining import Explaining
from app.feedback.request_log import RequestLog
from app.metrics.requests import RequestMetrics
from app.scoring.limits import Limits
from app.scoring.scorer import Scorer
from app.scoring.steps import Steps, Wait
from app.serving.trial import Trial
from app.web.access_log import AccessLog
from app.web.answer_bodies import prediction, predictions, ranking, ranking_of_one
from app.web.exchange import Endpoint, Exchange, Header, Route
from app.web.explain_route import explain_route
from app.web.known_heads import KnownHead
from app.web.schemas import PredictRequest, PredictResponse, RankRequest, RankResponse
from app.web.slow_requests import SlowRequests
from app.web.trial_requests import TrialRequests
from app.web.v2 import infer

HOLD_SECONDS = 0.0005
"""Seconds that a request may hold the event loop while others wait."""
LONG_BODY = 4 * 1024
"""Bytes of a body from which on its request waits for its turn among the long ones."""
_READ_HEADERS = frozenset(
    (
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"x-request-id",
        b"x-request-timeout-ms",
    )
)
REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


ROUTES = (
    Route(
        name="predict",
        paths={
            "/predict": "Score rows: one click probability for each instance, in their order.",
            "/v1/models/{name}:predict": "The same as /predict, at the path of TensorFlow"
            " Serving's and KServe's protocol.",
        },
        prepare=Scorer.predict,
        render=predictions,
        render_alone=prediction,
        request=PredictRequest,
        response=PredictResponse,
        short=Scorer.predict_short,
    ),
    Route(
        name="rank",
        paths={
            "/rank": "Order candidates for one context by their predicted click probability.",
        },
        prepare=Scorer.rank,
        render=ranking,
        render_alone=ranking_of_one,
        request=RankRequest,
        response=RankResponse,
    ),
    infer.ROUTE,
)
"""The scoring routes: the endpoints, the application's router and the OpenAPI document are made
of them."""


class HasScorer(Protocol):
    """The holder of the scorer in use, once there is one, and of the trial beside it."""

    @property
    def trial(self) -> Trial | None:
        """The trial that requests take part in, if there is one."""
        ...

    @property
    def scorer(self) -> Scorer:
        """The scorer of the bundle in use.

        Raises:
            NotReady: no bundle is in use yet.
        """
        ...

    @property
    def explaining(self) -> Explaining:
        """Explanations of the bundle in use.

        Raises:
            NotReady: no bundle is in use yet.
            NotOffered: the settings do not offer them.
        """
        ...


class ScoringEndpoints:
    """The endpoints of ``ROUTES`` in one service, and that of explanations."""

    def __init__(
        self,
        state: HasScorer,
        metrics: Callable[[str], RequestMetrics],
        slow_requests: SlowRequests,
        limits: Limits,
        access_log: AccessLog,
        request_log: RequestLog | None = None,
        explain: bool = False,
    ) -> None:
        """``metrics`` gives the request metrics of a route's name; with ``explain`` the public port
        has ``/explain`` too.
        """
        of_explain = explain_route(lambda: state.explaining)
        self.routes = (*ROUTES, of_explain) if explain else ROUTES
        """The routes of the public port."""
        self.explain = Endpoint(of_explain, metrics(of_explain.name), slow_requests, access_log)
        """The endpoint of explanations, for the admin port."""
        self.limits = limits
        self._state = state
        self._trial_requests = TrialRequests(state, limits.max_instances)
        self._request_id_prefix = os.urandom(6).hex().encode()
        self._request_number = count(1)
        self._reading: set[Exchange] = set()
        self._unfinished: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._long_taken = False
        self.by_path: dict[str, Endpoint] = {}
        """The endpoints of the paths without a ``{name}``."""
        self._by_pattern: list[tuple[re.Pattern[str], Endpoint]] = []
        for route in self.routes:
            endpoint = self.explain
            if route is not of_explain:
                endpoint = Endpoint(
                    route, metrics(route.name), slow_requests, access_log, request_log
                )
            for path in route.paths:
                if "{" in path:
                    pattern = re.compile(re.sub(r"\\{\w+\\}", "[^/:]+", re.escape(path)))
                    self._by_pattern.append((pattern, endpoint))
                else:
                    self.by_path[path] = endpoint

    def find(self, path: str) -> Endpoint | None:
        """Return the endpoint at a path."""
        found = self.by_path.get(path)
        if found is None:
            for pattern, endpoint in self._by_pattern:
                if pattern.fullmatch(path):
                    return endpoint
        return found

    def open(self, exchange: Exchange, headers: Iterable[Header]) -> bool:
        """Begin an exchange whose headers are there; return whether its body is wanted.

        If it is not, because of the headers or because the queue is full, the answer has been
        given.
        """
        try:
            now = asyncio.get_running_loop().time()
            exchange.deadline = now + self.limits.deadline_seconds
            exchange.deadline = now + self._read_head(exchange, headers)
            self._state.scorer.admit(1, exchange.deadline)
        except ServiceError as error:
            exchange.failed(error)
            return False
        return True

    def open_known(
        self, exchange: Exchange, request_id: bytes, known: KnownHead, now: float
    ) -> bool:
        """Begin an exchange whose headers were accepted before; return as :meth:`open`.

        ``request_id`` is the caller's, if it has one, ``now`` the loop's time. The queue is not
        asked about a short body: it has come, and its rows are asked about once they are read.
        """
        exchange.request_id = request_id or self._new_request_id()
        exchange.deadline = now + known.seconds
        if known.length >= LONG_BODY:
            try:
                self._state.scorer.admit(1, exchange.deadline)
            except ServiceError as error:
                exchange.failed(error)
                return False
        return True

    def seconds_of(self, headers: Iterable[Header]) -> float:
        """Return the time to the deadline by headers that were accepted."""
        given = [_timeout(value) for name, value in headers if name == b"x-request-timeout-ms"]
        return min([self.limits.deadline_seconds, *given])

    def await_body(self, exchange: Exchange) -> None:
        """Remember an exchange whose body is still on its way and has no task of its own.

        ``close`` answers it; ``body_ended`` forgets it.
        """
        self._reading.add(exchange)

    def body_ended(self, exchange: Exchange) -> None:
        """Note that an exchange waits for its body no longer."""
        if self._reading:
            self._reading.discard(exchange)

    def begin(self, exchange: Exchange, body: bytes) -> None:
        """Score a body; the exchange is told the outcome, now or later.

        A short body is decoded and encoded at once, here, without a task. The event loop is
        given back after ``HOLD_SECONDS``, and a task takes the remaining steps. Of the long
        bodies that come in one turn of the loop only the first begins at once: the others queue
        for ``_turn``, so that together they hold the loop no longer than one does.
        """
        exchange.received = perf_counter()
        try:
            scorer = self._state.scorer
            if self._state.trial is not None:
                steps = self._trial_requests.steps(exchange, body)
            else:
                exchange.version = scorer.version
                request_log = exchange.endpoint.request_log
                if request_log is not None and request_log.may_hold(exchange.request_id):
                    exchange.begin_trace(scorer, body)
                if exchange.endpoint.route.short(scorer, body, exchange):
                    return
                steps = exchange.endpoint.route.prepare(scorer, body, exchange)
        except Exception as error:
            exchange.failed(error)
            return
        waiting: Wait = None
        long = len(body) >= LONG_BODY
        if not (long and (self._long_taken or self._unfinished)):
            if long:
                self._long_taken = True
                asyncio.get_running_loop().call_soon(self._end_turn)
            end = exchange.received + HOLD_SECONDS
            try:
                for waiting in steps:
                    if waiting is not None or perf_counter() > end:
                        break
                else:
                    return
            except Exception as error:
                exchange.failed(error)
                return
        turn = self._turn if long else nullcontext()
        task = asyncio.get_running_loop().create_task(self._finish(exchange, steps, waiting, turn))
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)

    def _end_turn(self) -> None:
        self._long_taken = False

    def close(self) -> None:
        """Answer the requests that are still being read or encoded with 503."""
        for exchange in list(self._reading):
            exchange.failed(NotReady("the service is shutting down"))
        for task in self._unfinished:
            task.cancel()

    async def _finish(
        self,
        exchange: Exchange,
        steps: Steps[None],
        waiting: Wait,
        turn: AbstractAsyncContextManager[None],
    ) -> None:
        """Take the remaining steps of a request, leaving room for others."""
        try:
            while True:
                if waiting is not None:
                    await waiting
                async with turn:
                    waiting = await _advance(exchange, steps)
                if waiting is None:
                    return
        except asyncio.CancelledError:
            exchange.failed(NotReady("the service is shutting down"))
            raise
        except Exception as error:
            exchange.failed(error)
        finally:
            steps.close()

    def _new_request_id(self) -> bytes:
        return b"%b-%x" % (self._request_id_prefix, next(self._request_number))

    def _read_head(self, exchange: Exchange, headers: Iterable[Header]) -> float:
        """Set the request's id; return its time to the deadline.

        The id is the caller's if that is plain ASCII of at most 128 characters, else a new one.

        Raises:
            ServiceError: a header is wrong; the id is set nevertheless, for the answer.
        """
        given = b""
        seconds = self.limits.deadline_seconds
        problem: ServiceError | None = None
        for name, value in headers:
            if name not in _READ_HEADERS:
                continue
            if name == b"x-request-id":
                given = value
                continue
            try:
                if name == b"x-request-timeout-ms":
                    seconds = min(seconds, _timeout(value))
                else:
                    self._check_header(name, value, exchange.endpoint.route.media)
            except ServiceError as error:
                problem = problem or error
        if given and REQUEST_ID.fullmatch(given):
            exchange.request_id = given
        else:
            exchange.request_id = self._new_request_id()
        if problem is not None:
            raise problem
        return seconds

    def _check_header(self, name: bytes, value: bytes, taken: tuple[bytes, ...]) -> None:
        if name == b"content-length":
            if int(value) > self.limits.max_body_bytes:
                raise self.too_large()
        elif name == b"content-type":
            if value != b"application/json":
                media = value.split(b";")[0].strip().lower()
                if media not in taken and not media.endswith(b"+json"):
                    raise WrongMediaType(
                        "the body must be JSON: send the header Content-Type: application/json"
                    )
        elif value.strip().lower() not in (b"", b"identity"):
            raise WrongMediaType("compressed bodies are not read: send it without Content-Encoding")

    def too_large(self) -> TooLarge:
        """The answer to a body over the limit."""
        return TooLarge(f"the body is over {self.limits.max_body_bytes} bytes")

    def late(self) -> Undecodable:
        """The answer to a body that takes too long."""
        seconds = self.limits.receive_seconds
        return Undecodable(f"the body did not arrive in {seconds:g} seconds")


async def _advance(exchange: Exchange, steps: Steps[None]) -> Wait:
    """Take steps up to one that has to wait; return what for, or None at the end."""
    while True:
        await asyncio.sleep(0)
        if exchange.departed() or asyncio.get_running_loop().time() > exchange.deadline:
            raise DeadlinePassed("the deadline passed before the request was read")
        end = perf_counter() + HOLD_SECONDS
        for waiting in steps:
            if waiting is not None:
                return waiting
            if perf_counter() > end:
                break
        else:
            return None


def _timeout(value: bytes) -> float:
    """The seconds of an ``X-Request-Timeout-Ms``."""
    if not re.fullmatch(rb"[0-9]{1,9}", value) or int(value) == 0:
        raise Invalid(
            "a header is invalid",
            [Detail("X-Request-Timeout-Ms", "expected a whole number of milliseconds above 0")],
        )
    return int(value) / 1000
