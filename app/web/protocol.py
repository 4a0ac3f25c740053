"""uvicorn's HTTP protocol with a short cut for the scoring endpoints.

uvicorn answers a request by a cycle: a task that runs the application with a scope, a ``receive``
and a ``send``. For a score of 0.3 ms that is the larger part of the work, so a usual scoring
request bypasses it: it goes from the parser straight to the endpoints, and its answer straight to
the socket in one write, without a task. Everything else, and every unusual case (pipelining,
``Expect: 100-continue``, a client that does not read), takes uvicorn's way through the ASGI
application, which answers the same.

To uvicorn's own code an ``HttpExchange`` is the connection's cycle: it has the attributes that
uvicorn reads and sets (``keep_alive``, ``disconnected``, ``response_complete``, ``more_body``,
``message_event``). These are uvicorn's private API, hence the upper bound of its version in
``pyproject.toml``; ``tests/app/web/test_protocol.py`` fails where they change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from app.errors import NotReady, ServiceError
from app.web.bounded_protocol import DISCARDED_BYTES, BoundedProtocol
from app.web.connections import Connections
from app.web.endpoints import ScoringEndpoints
from app.web.exchange import Endpoint, Exchange, Header
from app.web.known_heads import KnownHeads

MOST_STRANGE, STRANGE_READS = 16, 256
"""Heads in succession that were not known, after which a connection's are not looked up: its
client sends another one with each request. They are tried again after so many reads in all."""


class _Ignored:
    """Stands where uvicorn expects the event that wakes a request's task: there is no task."""

    def set(self) -> None:
        """Do nothing."""


class HttpExchange(Exchange):
    """A request of one connection; to uvicorn's protocol it is one of its own cycles.

    The parser's callbacks fill ``parts`` until the body has ``arrived``; the endpoints, the
    batcher or the protocol then call ``write`` once. All run on the event loop.
    """

    message_event = _Ignored()
    # What a request begins with.
    accepted = arrived = disconnected = response_complete = False
    parts: list[bytes]
    size = 0

    def __init__(self, protocol: ScoringProtocol, endpoint: Endpoint, keep_alive: bool) -> None:
        super().__init__(endpoint)
        self.protocol = protocol
        self.keep_alive = keep_alive

    def departed(self) -> bool:
        return self.disconnected or self.protocol.transport.is_closing()

    @property
    def waits(self) -> bool:
        """True if an answer depends on the rest of the body."""
        return not (self.arrived or self.response_complete)

    @property
    def more_body(self) -> bool:
        """True if the body is still coming; uvicorn's cycles have the same attribute."""
        return not self.arrived

    def cut(self, error: ServiceError) -> None:
        """Answer with an error instead of reading the rest of the body, and close."""
        self.keep_alive = False
        self.failed(error)

    def end(self) -> bytes:
        """Return the body, which is complete."""
        self.arrived = True
        self.protocol.endpoints.body_ended(self)
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts.clear()
        return body

    def write(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
        self.response_complete = True
        protocol = self.protocol
        if not self.arrived:
            protocol.endpoints.body_ended(self)
        if not self.status:
            return  # The client has gone.
        if protocol.open_connections.ending or not (self.arrived or protocol.may_discard()):
            self.keep_alive = False
        if protocol.server_state.default_headers is not protocol.joined_defaults:
            protocol.join_defaults()
        usual = protocol.usual_headers[self.keep_alive]
        protocol.transport.write(
            b"%b%b%bcontent-length: %d\r\nx-request-id: %b\r\n\r\n%b"
            % (
                STATUS_LINE[status],
                usual,
                header_lines(headers) if headers else b"",
                len(body),
                self.request_id,
                body,
            )
        )
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()
        self.sent()


def header_lines(headers: Iterable[Header]) -> bytes:
    """Return headers as the bytes of an answer."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


class ScoringProtocol(BoundedProtocol):
    """HTTP/1.1 by httptools; one object for each connection."""

    def __init__(
        self,
        endpoints: ScoringEndpoints,
        open_connections: Connections,
        known_heads: KnownHeads,
        **uvicorns: Any,
    ) -> None:
        limits = endpoints.limits
        super().__init__(
            limits.receive_seconds, limits.max_body_bytes, open_connections, **uvicorns
        )
        self.endpoints = endpoints
        self.known_heads = known_heads
        self._strange_heads = 0
        self.usual_headers = b"", b""
        """The lines of the headers that every answer has: of the last one of a connection, or not
        of the last one; ``joined_defaults`` are the server's headers among them."""
        self.joined_defaults: Sequence[Header] | None = None
        self._by_target = {path.encode(): each for path, each in endpoints.by_path.items()}

    def data_received(self, data: bytes) -> None:
        fresh = False
        if self._strange_heads < MOST_STRANGE:
            fresh = self.between_requests()
            if fresh and self._take_known(data):
                return
        else:
            self._strange_heads = (self._strange_heads + 1) % STRANGE_READS
        before = self._completed_requests
        super().data_received(data)
        exchange = self._exchange()
        if exchange is None:
            return
        if exchange.waits:
            self.endpoints.await_body(exchange)
            self.expect_more()
        elif fresh and self._completed_requests == before + 1 and not self._in_message:
            self._remember(exchange, data)

    def _take_known(self, data: bytes) -> bool:
        """Begin with a request that is complete and whose head was parsed before.

        False if it is anything else. The parser is not told of the request: it stands between
        two requests before it and after it.
        """
        found = self.known_heads.find(data)
        if found is None:
            return False
        known, request_id, body = found
        self._strange_heads = 0
        self.become_busy()
        self.expect_nothing()
        self.http_1_1 = True
        exchange = HttpExchange(self, known.endpoint, keep_alive=True)
        exchange.arrived = True
        self.cycle = self.running = exchange  # type: ignore[assignment] # cast() takes its time
        if self.endpoints.open_known(exchange, request_id, known, self.loop.time()):
            self.endpoints.begin(exchange, body)
        return True

    def _remember(self, exchange: HttpExchange, data: bytes) -> None:
        """Keep the head of the request that ``data`` is, if it is a usual one."""
        self._strange_heads += 1
        if exchange.accepted and exchange.keep_alive and self.http_1_1:
            seconds = self.endpoints.seconds_of(self.headers)
            self.known_heads.add(data, self.headers, exchange.endpoint, seconds)

    def give_up(self) -> None:
        exchange = self._exchange()
        if exchange is not None and exchange.waits:
            exchange.cut(self.endpoints.late())
        else:
            super().give_up()

    def under_way(self) -> bool:
        # A request whose body is still on its way has no task that would time it out.
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

    def start_request(self) -> None:
        endpoint = self._by_target.get(self.url)
        parser, before = self.parser, self.cycle
        if (
            endpoint is None
            or parser.get_method() != b"POST"
            or self.expect_100_continue
            or self.flow.write_paused
            or not (before is None or before.response_complete)
        ):
            super().start_request()
            return
        keep_alive = parser.get_http_version() != "1.0" and parser.should_keep_alive()
        exchange = HttpExchange(self, endpoint, keep_alive)
        exchange.parts = []
        self.cycle = self.running = cast(RequestResponseCycle, exchange)
        exchange.accepted = self.endpoints.open(exchange, self.headers)

    def take_body(self, body: bytes) -> None:
        exchange = self._exchange()
        if exchange is None:
            super().take_body(body)
        elif not exchange.response_complete:
            exchange.parts.append(body)
            exchange.size += len(body)
            if exchange.size > self.endpoints.limits.max_body_bytes:
                exchange.failed(self.endpoints.too_large())

    def end_request(self) -> None:
        exchange = self._exchange()
        if exchange is None:
            super().end_request()
        else:
            self.endpoints.begin(exchange, exchange.end())

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        exchange = self._exchange()
        if exchange is not None and exchange.waits:
            exchange.failed(NotReady("the client has gone"))

    def join_defaults(self) -> None:
        """Join the lines of the headers that every answer has; the server has another date."""
        self.joined_defaults = defaults = self.server_state.default_headers
        usual = [(b"content-type", b"application/json"), *defaults]
        self.usual_headers = (
            header_lines([*usual, CLOSE_HEADER]),
            header_lines([*usual, self.keep_alive_header]),
        )

    def may_discard(self) -> bool:
        """True if the rest of the current request's body may be read and dropped, so that the
        connection can be kept: it is announced as short enough, or comes in chunks of which nobody
        knows how many there will be.
        """
        return all(
            name != b"content-length" or int(value) <= DISCARDED_BYTES
            for name, value in self.headers
        )
