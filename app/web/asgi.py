"""The scoring endpoints for any ASGI server: scope, receive and send around an exchange."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from app.errors import NotReady, ServiceError
from app.web.asgi_exchange import AsgiExchange
from app.web.endpoints import ScoringEndpoints
from app.web.exchange import Endpoint


class _ClientGone(Exception):
    """The caller closed its connection before its body was complete."""


async def serve(
    endpoints: ScoringEndpoints,
    endpoint: Endpoint,
    scope: Scope,
    receive: Receive,
    send: Send,
    of_page: bool = False,
) -> None:
    """Answer one request; ``of_page`` says that a page of the service sends it."""
    make = endpoint.route.exchange or AsgiExchange
    exchange = make(endpoint, scope, receive)
    exchange.of_page = of_page
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
        (b"content-type", exchange.media),
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
