"""The scoring endpoints: one straight line from a request's bytes to its answer's.

They stand in front of the application's middleware, so they do for themselves what every
answer needs: limits, request ids, metrics, the one error shape. How bytes come and go is left
to an adapter: ``app.web.protocol`` for uvicorn's own parser, ``app.web.asgi`` for any ASGI server.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from itertools import count
from time import perf_counter
from typing import Protocol

import msgspec
import numpy as np

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
from app.features.graph_inputs import Scores
from app.metrics.requests import RequestMetrics
from app.scoring.limits import Limits
from app.scoring.scorer import Ids, Scorer, Steps, Wait
from app.web.slow_requests import SlowRequests

Header = tuple[bytes, bytes]
_Turn = AbstractAsyncContextManager[None]

HOLD_SECONDS = 0.0005
"""How long a request may hold the event loop while others wait."""
LONG_BODY = 4 * 1024
"""Bytes of a body from which on its request waits for its turn among the long ones."""
_READ_HEADERS = frozenset(
    (b"content-length", b"content-type", b"content-encoding", b"x-request-id",
     b"x-request-timeout-ms")
)  # fmt: skip
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_KSERVE = re.compile(r"/v1/models/[^/:]+:predict")
log = logging.getLogger(__name__)


class Route:
    """What an endpoint does with a body, and with its scores."""

    def __init__(
        self,
        prepare: Callable[[Scorer, bytes, Exchange], Steps[None]],
        render: Callable[[Exchange, Scores], str],
        name: str,
        metrics: RequestMetrics,
        slow: SlowRequests,
    ) -> None:
        self.prepare = prepare
        self.render = render
        self.name = name
        self.metrics = metrics
        self.slow = slow


class Exchange(ABC):
    """One request and its answer; an ``app.scoring.scorer.Asker``.

    An adapter gives ``write``, which is called exactly once, and ``departed``, and says when the
    answer has been ``sent``. The first answer counts: an engine may fail a list, or its time be
    over, while the rest of it is being read.
    """

    __slots__ = (
        "_start", "_status", "answered", "begun", "complete", "deadline", "degraded", "encoded",
        "ended", "ids", "request_id", "route", "rows", "top_k", "version",
    )  # fmt: skip

    def __init__(self, route: Route) -> None:
        self._start = perf_counter()
        self.complete = self.encoded = self.begun = self.ended = 0.0
        self._status = 0
        self.rows = 0
        self.route = route
        self.request_id = b"-"
        self.deadline = 0.0
        self.version = ""
        self.answered = False
        self.degraded = False
        self.ids: Ids | None = None
        self.top_k: int | None = None

    @abstractmethod
    def departed(self) -> bool:
        """Whether the caller has closed its connection."""

    @abstractmethod
    def write(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
        """Send the answer, with these headers besides the usual ones."""

    def scored(self, scores: Scores) -> None:
        """Answer with scores."""
        if self.answered:
            return
        try:
            body = self.route.render(self, scores).encode()
        except Exception as error:
            self.failed(error)
        else:
            self._answer(200, body, ())

    def failed(self, error: BaseException) -> None:
        """Answer with an error; one that nobody foresaw is logged."""
        if self.answered:
            return
        if not isinstance(error, ServiceError):
            log.error("request %s failed", self.request_id.decode(), exc_info=error)
            error = ServiceError("internal error")
        headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
        if not self.departed():
            self.route.metrics.count_refusal(error.reason)
        self._answer(error.status, msgspec.json.encode(error.body()), headers)

    def _answer(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
        self.answered = True
        if self.departed():
            self.route.metrics.count_departed()
        else:
            self._status = status
            self.route.metrics.count_answer(status)
        self.write(status, body, headers)

    def sent(self) -> None:
        """Note how long it took, now that the answer has been handed to the connection."""
        status, route = self._status, self.route
        if not status:
            return
        now = perf_counter()
        taken = now - self._start
        route.metrics.observe_latency(status, taken)
        if self.encoded:
            route.metrics.observe_stages(
                self.encoded - self.complete,
                max(0.0, (self.begun or now) - self.encoded),
                now - self.ended if status == 200 else None,
            )
        if taken > route.slow.seconds:
            route.slow.tell(self._told(now))

    def _told(self, now: float) -> dict[str, object]:
        """What the log tells of a slow request: nothing that it asked about."""
        moments = {
            "read": self.complete, "encode": self.encoded,
            # The engine may have begun with the first rows while others were encoded.
            "queue": max(self.begun, self.encoded) if self.begun else 0.0,
            "engine": self.ended, "response": now,
        }  # fmt: skip
        fields: dict[str, object] = {
            "request": self.request_id.decode(),
            "route": self.route.name,
            "status": self._status,
            "rows": self.rows,
            "version": self.version,
            "total_ms": round(1000 * (now - self._start), 3),
        }
        before = self._start
        for stage, end in moments.items():
            # What is left is the time of the stage that it did not come through.
            left = end < before
            fields[f"{stage}_ms"] = round(1000 * ((now if left else end) - before), 3)
            if left:
                break
            before = end
        return fields


class HasScorer(Protocol):
    """Where the scorer in use is found, once there is one."""

    @property
    def scorer(self) -> Scorer:
        """The scorer of the bundle in use.

        Raises:
            NotReady: there is none.
        """
        ...


class ScoringEndpoints:
    """``POST /predict``, ``/rank`` and ``/v1/models/{name}:predict``."""

    def __init__(
        self,
        state: HasScorer,
        metrics_for: Callable[[str], RequestMetrics],
        slow: SlowRequests,
        limits: Limits,
    ) -> None:
        self._state = state
        self._deadline = limits.deadline_seconds
        self.max_body_bytes = limits.max_body_bytes
        self.receive_seconds = limits.receive_seconds
        self._prefix = os.urandom(6).hex().encode()
        self._number = count(1)
        self.expecting: set[Exchange] = set()
        """Exchanges whose body has yet to come, and whom no task waits for."""
        self._unfinished: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._long_taken = False
        self._predict = Route(_predict, _predictions, "predict", metrics_for("predict"), slow)
        self._rank = Route(_rank, _ranking, "rank", metrics_for("rank"), slow)
        self.routes = {"/predict": self._predict, "/rank": self._rank}

    def find(self, path: str) -> Route | None:
        """Return the endpoint at a path."""
        route = self.routes.get(path)
        if route is None and path.startswith("/v1/models/") and _KSERVE.fullmatch(path):
            return self._predict
        return route

    def open(self, exchange: Exchange, headers: Iterable[Header]) -> bool:
        """Begin an exchange whose headers are there; return whether its body is wanted.

        If it is not, because of the headers or because there is no room in the queue, the
        answer has been given.
        """
        try:
            exchange.deadline = asyncio.get_running_loop().time() + self._deadline
            self._read_head(exchange, headers)
            self._state.scorer.admit(1, exchange.deadline)
        except ServiceError as error:
            exchange.failed(error)
            return False
        return True

    def begin(self, exchange: Exchange, body: bytes) -> None:
        """Score a body; the exchange is told the outcome, now or later."""
        exchange.complete = perf_counter()
        steps = self._steps(exchange, body)
        waiting: Wait = None
        long = len(body) >= LONG_BODY
        if not (long and (self._long_taken or self._unfinished)):
            if long:
                # Many may come in one turn of the loop, in which nothing else is done.
                self._long_taken = True
                asyncio.get_running_loop().call_soon(self._end_turn)
            end = exchange.complete + HOLD_SECONDS
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
        """Answer whoever's request is not read yet."""
        for exchange in list(self.expecting):
            exchange.failed(NotReady("the service is shutting down"))
        for task in self._unfinished:
            task.cancel()

    def _steps(self, exchange: Exchange, body: bytes) -> Steps[None]:
        scorer = self._state.scorer
        exchange.version = scorer.version
        yield from exchange.route.prepare(scorer, body, exchange)

    async def _finish(
        self, exchange: Exchange, steps: Steps[None], waiting: Wait, turn: _Turn
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

    def _read_head(self, exchange: Exchange, headers: Iterable[Header]) -> None:
        """Set the request's id and its deadline; tell what is wrong with the headers.

        The id is the caller's if that is plain ASCII of at most 128 characters, else a new one.
        """
        given = b""
        began = exchange.deadline - self._deadline
        problem: ServiceError | None = None
        for name, value in headers:
            if name not in _READ_HEADERS:
                continue
            if name == b"x-request-id":
                given = value
                continue
            try:
                if name == b"x-request-timeout-ms":
                    exchange.deadline = min(exchange.deadline, began + _timeout(value))
                else:
                    self._check_header(name, value)
            except ServiceError as error:
                problem = problem or error
        if given and _REQUEST_ID.fullmatch(given):
            exchange.request_id = given
        else:
            exchange.request_id = b"%b-%x" % (self._prefix, next(self._number))
        if problem is not None:
            raise problem

    def _check_header(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            if int(value) > self.max_body_bytes:
                raise self.too_large()
        elif name == b"content-type":
            if value != b"application/json":
                media = value.split(b";")[0].strip().lower()
                if media != b"application/json" and not media.endswith(b"+json"):
                    raise WrongMediaType("the body must be application/json")
        elif value.strip().lower() not in (b"", b"identity"):
            raise WrongMediaType("compressed bodies are not read")

    def too_large(self) -> TooLarge:
        """The answer to a body over the limit."""
        return TooLarge(f"the body is over {self.max_body_bytes} bytes")

    def late(self) -> Undecodable:
        """The answer to a body that takes too long."""
        return Undecodable(f"the body did not arrive in {self.receive_seconds:g} seconds")


async def _advance(exchange: Exchange, steps: Steps[None]) -> Wait:
    """Take steps up to one that has to wait; return what for, or nothing at the end."""
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
    if not re.fullmatch(rb"[0-9]{1,9}", value) or int(value) == 0:
        raise Invalid(
            "a header is invalid",
            [Detail("X-Request-Timeout-Ms", "expected a whole number of milliseconds above 0")],
        )
    return int(value) / 1000


def _predict(scorer: Scorer, body: bytes, exchange: Exchange) -> Steps[None]:
    return scorer.predict(body, exchange)


def _predictions(exchange: Exchange, scores: Scores) -> str:
    numbers = ",".join([f"{score:.9g}" for score in scores.score.tolist()])
    return f'{{"predictions":[{numbers}],"version":"{exchange.version}"{_degraded(exchange)}}}'


def _rank(scorer: Scorer, body: bytes, exchange: Exchange) -> Steps[None]:
    return scorer.rank(body, exchange)


def _ranking(exchange: Exchange, scores: Scores) -> str:
    """The candidates by falling logit; equal logits keep the request's order."""
    order = np.argsort(-scores.logit, kind="stable")[: exchange.top_k]
    best = scores.score[order].tolist()
    places = order.tolist()
    ids: Ids = [None] * len(places)
    if exchange.ids is not None:
        ids = [exchange.ids[index] for index in places]
    ranking = ",".join(
        f'{{"index":{index},{_id_member(identity)}"score":{score:.9g}}}'
        for index, identity, score in zip(places, ids, best, strict=True)
    )
    return f'{{"ranking":[{ranking}],"version":"{exchange.version}"{_degraded(exchange)}}}'


def _degraded(exchange: Exchange) -> str:
    return ',"degraded":["vocabulary"]' if exchange.degraded else ""


def _id_member(identity: int | str | None) -> str:
    if identity is None:
        return ""
    return f'"id":{msgspec.json.encode(identity).decode()},'
