"""uvicorn's HTTP protocol with a short cut for the scoring endpoints.

A usual scoring request goes from the parser straight to the endpoints, and its answer straight
to the socket in one write: no task, no scope, no messages. Everything else, and every unusual
case (pipelining, ``Expect: 100-continue``, a client that does not read), takes uvicorn's way
through the ASGI application, which answers the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from app.errors import NotReady, ServiceError
from app.web.bounded_protocol import BoundedProtocol
from app.web.endpoints import Exchange, Header, Route, ScoringEndpoints

DISCARDED_BYTES = 64 * 1024
"""Length up to which the body of a refused request is read and dropped; else its connection is
closed."""


class _Ignored:
    """Stands where uvicorn expects the event that would wake a request's task."""

    def set(self) -> None:
        """Nobody waits."""


class HttpExchange(Exchange):
    """A request of one connection; to uvicorn's protocol it is one of its own cycles."""

    __slots__ = ("arrived", "disconnected", "keep_alive", "parts", "protocol",
                 "response_complete", "size")  # fmt: skip
    message_event = _Ignored()

    def __init__(self, protocol: ScoringProtocol, route: Route, keep_alive: bool) -> None:
        super().__init__(route)
        self.protocol = protocol
        self.keep_alive = keep_alive
        self.disconnected = self.response_complete = self.arrived = False
        self.parts: list[bytes] = []
        self.size = 0

    def departed(self) -> bool:
        return self.disconnected or self.protocol.transport.is_closing()

    @property
    def waits(self) -> bool:
        """Whether an answer depends on the rest of the body."""
        return not (self.arrived or self.response_complete)

    @property
    def more_body(self) -> bool:
        """Whether the body is still coming; what uvicorn's own cycles say too."""
        return not self.arrived

    def _stop_waiting(self) -> None:
        if self.protocol.endpoints.expecting:
            self.protocol.endpoints.expecting.discard(self)

    def cut(self, error: ServiceError) -> None:
        """Answer without the rest of the body, which has no use any more."""
        self.keep_alive = False
        self.failed(error)

    def end(self) -> bytes:
        """Return the body, which is complete."""
        self.arrived = True
        self._stop_waiting()
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts.clear()
        return body

    def write(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
        self.response_complete = True
        self._stop_waiting()
        if self.departed():
            return
        protocol = self.protocol
        if not self.arrived and not protocol.may_discard():
            self.keep_alive = False
        more = [*protocol.server_state.default_headers, *headers]
        if not self.keep_alive:
            more.append((b"connection", b"close"))
        protocol.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
            b"%b\r\n%b"
            % (
                STATUS_LINE[status],
                len(body),
                self.request_id,
                b"".join([b"%b: %b\r\n" % header for header in more]),
                body,
            )
        )
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()
        self.sent()


class ScoringProtocol(BoundedProtocol):
    """HTTP/1.1 by httptools; one object for each connection."""

    def __init__(self, endpoints: ScoringEndpoints, **uvicorns: Any) -> None:
        super().__init__(endpoints.receive_seconds, endpoints.max_body_bytes, **uvicorns)
        self.endpoints = endpoints
        self._routes = {path.encode(): route for path, route in endpoints.routes.items()}

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        exchange = self._exchange()
        if exchange is not None and exchange.waits:
            self.endpoints.expecting.add(exchange)
            self.expect_more()

    def give_up(self) -> None:
        exchange = self._exchange()
        if exchange is not None and exchange.waits:
            exchange.cut(self.endpoints.late())
        else:
            super().give_up()

    def under_way(self) -> bool:
        # Whoever still sends a body is waited for by nobody else.
        exchange = self._exchange()
        return super().under_way() and (exchange is None or exchange.arrived)

    def send_400_response(self, msg: str) -> None:
        exchange = self._exchange()
        if exchange is not None and exchange.waits:
            exchange.cut(self.refusal)
        else:
            super().send_400_response(msg)

    def _exchange(self) -> HttpExchange | None:
        """The current request, if it took the short cut."""
        cycle: Any = self.cycle
        return cycle if cycle.__class__ is HttpExchange else None

    def on_headers_complete(self) -> None:
        self.check_head()
        route = self._routes.get(self.url)
        parser, before = self.parser, self.cycle
        if (
            route is None
            or parser.get_method() != b"POST"
            or self.expect_100_continue
            or parser.should_upgrade()
            or self.flow.write_paused
            or not (before is None or before.response_complete)
        ):
            super().on_headers_complete()
            return
        keep_alive = parser.get_http_version() != "1.0" and parser.should_keep_alive()
        exchange = HttpExchange(self, route, keep_alive)
        self.cycle = cast(RequestResponseCycle, exchange)
        self.endpoints.open(exchange, self.headers)

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange()
        if exchange is None:
            super().on_body(body)
        elif not exchange.response_complete:
            exchange.parts.append(body)
            exchange.size += len(body)
            if exchange.size > self.endpoints.max_body_bytes:
                exchange.failed(self.endpoints.too_large())

    def on_message_complete(self) -> None:
        exchange = self._exchange()
        if exchange is None:
            super().on_message_complete()
            return
        self.has_arrived()
        body = exchange.end()
        if not exchange.response_complete:
            self.endpoints.begin(exchange, body)
        else:
            # Refused before the body came, which is over only now.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        exchange = self._exchange()
        if exchange is not None and exchange.waits:
            exchange.failed(NotReady("the client has gone"))

    def may_discard(self) -> bool:
        """Whether what is left of the current request's body is short, by what was announced."""
        return any(
            name == b"content-length" and int(value) <= DISCARDED_BYTES
            for name, value in self.headers
        )
