"""The scoring endpoints for any ASGI server: scope, receive and send around an exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from app.errors import NotReady, ServiceError
from app.web.endpoints import Exchange, Header, Route, ScoringEndpoints

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _ClientGone(Exception):
    """The caller closed its connection; nobody waits for an answer."""


class _AsgiExchange(Exchange):
    """An exchange whose answer is awaited.

    uvicorn's ``receive`` belongs to an object that knows whether the caller has gone; asking it
    costs nothing, while waiting for ``http.disconnect`` would cost a task for each request.
    Behind another server nobody counts as departed before their deadline.
    """

    __slots__ = ("_cycle", "answer", "gone")

    def __init__(self, route: Route, receive: Receive) -> None:
        super().__init__(route)
        self._cycle = getattr(receive, "__self__", None)
        self.gone = False
        self.answer: asyncio.Future[tuple[int, bytes, Sequence[Header]]] = (
            asyncio.get_running_loop().create_future()
        )

    def departed(self) -> bool:
        return self.gone or bool(getattr(self._cycle, "disconnected", False))

    def write(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
        self.answer.set_result((status, body, headers))


async def serve(
    endpoints: ScoringEndpoints, route: Route, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer one request."""
    exchange = _AsgiExchange(route, receive)
    if endpoints.open(exchange, scope["headers"]):
        try:
            async with asyncio.timeout(endpoints.receive_seconds):
                body = await _read(receive, endpoints)
            endpoints.begin(exchange, body)
            await asyncio.wait((exchange.answer,))
        except TimeoutError:
            exchange.failed(endpoints.late())
        except _ClientGone:
            exchange.gone = True
            exchange.failed(NotReady("the client has gone"))
        except ServiceError as error:
            exchange.failed(error)
        except asyncio.CancelledError:
            # The server cancels what is still running when its time to drain is over.
            exchange.failed(NotReady("the service is shutting down"))
    status, payload, headers = exchange.answer.result()
    usual = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(payload)),
        (b"x-request-id", exchange.request_id),
    ]
    if status == 413:
        # What is left of the body will not be read.
        usual.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": [*usual, *headers]})
    await send({"type": "http.response.body", "body": payload})
    exchange.sent()


async def _read(receive: Receive, endpoints: ScoringEndpoints) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > endpoints.max_body_bytes:
            raise endpoints.too_large()
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)
