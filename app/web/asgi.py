"""The scoring endpoints for any ASGI server: scope, receive and send around an exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.types import Receive, Scope, Send

from app.errors import NotReady, ServiceError
from app.web.endpoints import ScoringEndpoints
from app.web.exchange import Endpoint, Exchange, Header


class _ClientGone(Exception):
    """The caller closed its connection before its body was complete."""


class _AsgiExchange(Exchange):
    """An exchange whose answer is awaited.

    uvicorn's ``receive`` belongs to an object that knows whether the caller has gone; asking it
    costs nothing, while waiting for ``http.disconnect`` would cost a task for each request.
    Behind another server no caller counts as departed before its deadline.
    """

    def __init__(self, endpoint: Endpoint, receive: Receive) -> None:
        super().__init__(endpoint)
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
    endpoints: ScoringEndpoints, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer one request."""
    exchange = _AsgiExchange(endpoint, receive)
    if endpoints.open(exchange, scope["headers"]):
        try:
            async with asyncio.timeout(endpoints.limits.receive_seconds):
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
        if size > endpoints.limits.max_body_bytes:
            raise endpoints.too_large()
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)
