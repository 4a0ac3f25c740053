"""The scoring endpoints, straight on ASGI: bytes in, bytes out, no framework between.

They stand in front of the application's middleware, so they do for themselves what every
answer needs: limits, request ids, metrics, the one error shape.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from itertools import count
from time import perf_counter
from typing import Any, Protocol

import msgspec

from app.decoding import decode, predict_decoder, rank_decoder
from app.errors import (
    Detail,
    Invalid,
    NotReady,
    ServiceError,
    TooLarge,
    Undecodable,
    WrongMediaType,
)
from app.metrics import Recorder
from app.scorer import Scorer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_SECONDS = 30.0
"""How long a body may take to arrive."""
_READ_HEADERS = frozenset(
    (b"content-length", b"content-type", b"content-encoding", b"x-request-id",
     b"x-request-timeout-ms")
)  # fmt: skip
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_KSERVE = re.compile(r"/v1/models/[^/:]+:predict")
_JSON = (b"content-type", b"application/json")
log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The caller closed its connection; nobody waits for an answer."""


class _Refused(Exception):
    """A request whose headers are refused; it has an id all the same."""

    def __init__(self, request_id: bytes, error: ServiceError) -> None:
        super().__init__(str(error))
        self.request_id = request_id
        self.error = error


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
        self, state: HasScorer, recorder: Recorder, deadline: float, max_body_bytes: int
    ) -> None:
        self._state = state
        self._recorder = recorder
        self._deadline = deadline
        self._max_body_bytes = max_body_bytes
        self._prefix = os.urandom(6).hex().encode()
        self._number = count(1)
        self.predict = self._endpoint("predict", self._predict)
        self.rank = self._endpoint("rank", self._rank)

    def find(self, path: str) -> Endpoint | None:
        """Return the endpoint at a path."""
        if path == "/predict":
            return self.predict
        if path == "/rank":
            return self.rank
        if path.startswith("/v1/models/") and _KSERVE.fullmatch(path):
            return self.predict
        return None

    async def _predict(self, body: bytes, deadline: float, departed: Callable[[], bool]) -> bytes:
        scorer = self._state.scorer
        scores = await scorer.predict(decode(predict_decoder, body), deadline, departed)
        numbers = ",".join([f"{score:.9g}" for score in scores.score.tolist()])
        return f'{{"predictions":[{numbers}],"version":"{scorer.version}"}}'.encode()

    async def _rank(self, body: bytes, deadline: float, departed: Callable[[], bool]) -> bytes:
        scorer = self._state.scorer
        request = decode(rank_decoder, body)
        scores, order = await scorer.rank(request, deadline, departed)
        best = scores.score[order].tolist()
        ids: Iterable[int | str | None]
        if isinstance(request.candidates, list):
            ids = [request.candidates[index].id for index in order]
        elif request.candidates.id is not None:
            ids = [request.candidates.id[index] for index in order]
        else:
            ids = [None] * len(order)
        places = ",".join(
            f'{{"index":{index},{_id_member(identity)}"score":{score:.9g}}}'
            for index, identity, score in zip(order, ids, best, strict=True)
        )
        return f'{{"ranking":[{places}],"version":"{scorer.version}"}}'.encode()

    def _endpoint(
        self,
        route: str,
        answer: Callable[[bytes, float, Callable[[], bool]], Awaitable[bytes]],
    ) -> Endpoint:
        """Wrap a handler with reading, limits, metrics and errors."""
        seconds = self._recorder.seconds[route]
        outcomes = self._recorder.outcomes[route]

        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            start = perf_counter()
            request_id = b"-"
            extra: list[tuple[bytes, bytes]] = []
            try:
                request_id, timeout = self._read_head(scope["headers"])
                deadline = asyncio.get_running_loop().time() + timeout
                body = await self._read_body(receive)
                status, payload = 200, await answer(body, deadline, _departure(receive))
            except _Refused as refused:
                request_id = refused.request_id
                status, payload, extra = _error(refused.error)
            except ServiceError as error:
                status, payload, extra = _error(error)
            except asyncio.CancelledError:
                # The server cancels what is still running when its time to drain is over.
                status, payload, extra = _error(NotReady("the service is shutting down"))
            except ClientGone:
                outcomes["gone"] += 1
                return
            except Exception:
                log.exception("request %s failed", request_id.decode())
                status, payload = 500, msgspec.json.encode(ServiceError("internal error").body())
            seconds.observe(perf_counter() - start)
            outcomes[str(status)] += 1
            await send(
                {
                    "type": "http.response.start",
                    "status": status,
                    "headers": [
                        _JSON,
                        (b"content-length", b"%d" % len(payload)),
                        (b"x-request-id", request_id),
                        *extra,
                    ],
                }
            )
            await send({"type": "http.response.body", "body": payload})

        return endpoint

    def _read_head(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, float]:
        """Return the request's id and its time in seconds, and what is wrong with the headers.

        The id is the caller's if that is plain ASCII of at most 128 characters, else a new one.
        """
        given = b""
        timeout = self._deadline
        problem: ServiceError | None = None
        for name, value in headers:
            if name not in _READ_HEADERS:
                continue
            if name == b"x-request-id":
                given = value
                continue
            try:
                if name == b"x-request-timeout-ms":
                    timeout = min(timeout, _timeout(value))
                else:
                    self._check_header(name, value)
            except ServiceError as error:
                problem = problem or error
        if given and _REQUEST_ID.fullmatch(given):
            request_id = given
        else:
            request_id = b"%s-%x" % (self._prefix, next(self._number))
        if problem is not None:
            raise _Refused(request_id, problem)
        return request_id, timeout

    def _check_header(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            if int(value) > self._max_body_bytes:
                raise TooLarge(f"the body is over {self._max_body_bytes} bytes")
        elif name == b"content-type":
            if value != b"application/json":
                media = value.split(b";")[0].strip().lower()
                if media != b"application/json" and not media.endswith(b"+json"):
                    raise WrongMediaType("the body must be application/json")
        elif value.strip().lower() not in (b"", b"identity"):
            raise WrongMediaType("compressed bodies are not read")

    async def _read_body(self, receive: Receive) -> bytes:
        if _has_arrived(receive):
            return await self._read_parts(receive)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._read_parts(receive)
        except TimeoutError:
            raise Undecodable(f"the body did not arrive in {BODY_SECONDS:g} seconds") from None

    async def _read_parts(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > self._max_body_bytes:
                raise TooLarge(f"the body is over {self._max_body_bytes} bytes")
            parts.append(part)
            more = message.get("more_body", False)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _error(error: ServiceError) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """Return an error's status, body and headers."""
    extra = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    if error.status == 413:
        # What is left of the body will not be read.
        extra.append((b"connection", b"close"))
    return error.status, msgspec.json.encode(error.body()), extra


def _id_member(identity: int | str | None) -> str:
    if identity is None:
        return ""
    return f'"id":{msgspec.json.encode(identity).decode()},'


def _timeout(value: bytes) -> float:
    if not re.fullmatch(rb"[0-9]{1,9}", value) or int(value) == 0:
        raise Invalid(
            "a header is invalid",
            [Detail("X-Request-Timeout-Ms", "expected a whole number of milliseconds above 0")],
        )
    return int(value) / 1000


def _has_arrived(receive: Receive) -> bool:
    """Whether the whole body is there, so that reading it needs no time limit."""
    return getattr(getattr(receive, "__self__", None), "more_body", True) is False


def _departure(receive: Receive) -> Callable[[], bool]:
    """Return a function that tells whether the caller has closed its connection.

    uvicorn's ``receive`` belongs to an object that knows; asking it costs nothing, while
    waiting for ``http.disconnect`` would cost a task for each request. Behind another server
    nobody counts as departed before their deadline.
    """
    cycle = getattr(receive, "__self__", None)
    if hasattr(cycle, "disconnected"):
        return lambda: bool(cycle.disconnected)  # type: ignore[union-attr]
    return lambda: False
