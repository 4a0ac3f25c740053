"""uvicorn's HTTP protocol with bounds on what comes around a body, and on how long it takes."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from time import perf_counter
from typing import Any, cast

import httptools
import msgspec
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app.errors import HeadTooLarge, MethodNotAllowed, NotReady, ServiceError, Undecodable
from app.web.connections import Connections
from app.web.departure import DepartureWatch
from app.web.flow import BoundedFlow
from app.web.lingering import LingeringTransport

HEAD_BYTES = 32 * 1024
"""Most bytes of a request's target and headers."""
HEADERS = 100
"""Most headers of a request."""
READ_BYTES = 256 * 1024
"""Bytes that may come at once: a head still incomplete is refused when so many more are there."""
FRAMING = 4
"""A request may be so many times as long as the largest body, with its chunks and trailers."""
DISCARDED_BYTES = 16 * 2**20
"""Length up to which the body of a request that has its answer is read to its end, so that the
connection can be kept; one with a longer body ends."""
FREE_CHUNKS, CHUNK_BYTES = 1_024, 64
"""Chunks of a body that may be of any size; how long more than these must be on average. Each
costs some µs of the event loop, whatever its size."""
SLICE_BYTES = 8 * 1024
"""Bytes that are parsed between two looks at the clock."""
PARSE_SECONDS = 0.001
"""Seconds that one connection's bytes are parsed before others have their turn."""
GRACE_SECONDS = 1.0
"""Seconds that an idle connection is kept open while the server ends, for a request that is on its
way."""
SPARE_KEEP_ALIVE_SECONDS = 1.0
"""Seconds that an idle connection is kept longer than its client was told."""


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 by httptools; one object for each connection.

    A request, from its first byte to the last of its body, must arrive within
    ``receive_seconds``, and so must a connection's first request; an answer must be taken within
    the same time. Else the connection is closed.

    Neither httptools nor uvicorn bounds what it keeps of a head or a trailer, or how small the
    chunks of a body are; this does. ``refusal`` is what ``send_400_response`` says.
    """

    def __init__(
        self,
        receive_seconds: float,
        max_body_bytes: int,
        open_connections: Connections,
        **uvicorns: Any,
    ) -> None:
        super().__init__(**uvicorns)
        self.open_connections = open_connections
        self.timeout_keep_alive = cast(
            int, open_connections.keep_alive_seconds + SPARE_KEEP_ALIVE_SECONDS
        )
        self.keep_alive_header = (
            b"keep-alive",
            b"timeout=%d" % open_connections.keep_alive_seconds,
        )
        self._receive_seconds = receive_seconds
        self._max_request_bytes = FRAMING * max_body_bytes + HEAD_BYTES + READ_BYTES
        self.refusal: ServiceError = Undecodable("this is not HTTP/1.1")
        # The request that is being parsed.
        self._in_head = self._in_message = self._offered = False
        self._refused = False
        self._request_bytes = self._read_size = 0
        self._body_bytes = self._chunks = 0
        self._completed_requests = 0
        # What was read and is not parsed yet.
        self._unparsed: deque[memoryview] = deque()
        self._idle_until = math.inf
        self._late: asyncio.TimerHandle | None = None
        self._untaken: asyncio.TimerHandle | None = None
        self._departure: DepartureWatch | None = None
        self.http_1_1 = False
        """True if the newest request's version is HTTP/1.1."""
        self.running: RequestResponseCycle | None = None
        """The request that is answered now; ``cycle`` is the newest one, which may wait for it."""

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.lingering = LingeringTransport(
            transport, self.loop, self._receive_seconds, self._still_sending
        )
        super().connection_made(cast(asyncio.Transport, self.lingering))
        self.flow = BoundedFlow(self.transport, lambda: bool(self._unparsed or self.pipeline))
        if self.open_connections.opened(self):
            self.expect_more()
        else:
            self.refusal = NotReady("too many connections, none of them idle")
            self._refuse()
            self.lingering.hurry(GRACE_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._late, self._untaken, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        if self._departure is not None:
            self._departure.stop()
        self.lingering.stop()
        self._unparsed.clear()
        self.open_connections.closed(self)
        # uvicorn tells the newest request only; one that others wait behind would go on to write.
        if self.running is not None and not self.running.response_complete:
            self.running.disconnected = True
            self.running.message_event.set()
        super().connection_lost(exc)

    def _still_sending(self) -> bool:
        """True if the client may still be sending bytes that no answer depends on."""
        return (
            self._refused
            or bool(self._unparsed)
            or (self._in_message and self.cycle is not None and self.cycle.response_complete)
        )

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more; what it has asked for is answered all the same."""
        if self.lingering.lingers:
            return False
        self._parse_all()
        if self._in_message and self.pipeline:
            # It is not whole; those before it are.
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else cast(Any, self.running)
            self._in_message = False
        if self._in_message or not self.under_way():
            return False
        self.cycle.keep_alive = False
        self._departure = DepartureWatch(self.transport, self.loop)
        self._departure.start(may_ask=self.http_1_1)
        return True

    # What comes.

    def data_received(self, data: bytes) -> None:
        if self.lingering.lingers:
            self.lingering.drop(len(data))
            return
        self.become_busy()
        if len(data) <= SLICE_BYTES and not self._unparsed:
            self._parse(data)
            return
        # A long one is parsed in slices, and others have their turn between some of them: the
        # heads of a thousand small requests, or as many chunks, cost as much as they weigh little.
        view = memoryview(data)
        waiting = bool(self._unparsed)
        self._unparsed.extend(
            view[start : start + SLICE_BYTES] for start in range(0, len(data), SLICE_BYTES)
        )
        if not waiting:
            self._parse_some()

    def between_requests(self) -> bool:
        """True if the next byte is the first of a request that waits for no other one."""
        cycle = self.cycle
        return (cycle is None or cycle.response_complete) and not (
            self._in_message
            or self._unparsed
            or self.flow.write_paused
            or self.transport.is_closing()
        )

    def become_busy(self) -> None:
        """Note that something has come."""
        self._idle_until = math.inf
        self.open_connections.busy(self)

    def expect_nothing(self) -> None:
        """Note that a request is complete: the time for its bytes is over."""
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _parse_some(self) -> None:
        """Parse for a short time; the rest has another turn."""
        end = perf_counter() + PARSE_SECONDS
        while self._unparsed and not self.transport.is_closing():
            if self.pipeline:
                # Requests that wait for others are enough; on_response_complete goes on.
                return
            if perf_counter() > end:
                # What comes meanwhile waits in the socket.
                self.flow.pause_reading()
                self.loop.call_soon(self._parse_rest)
                return
            self._parse(self._unparsed.popleft())

    def _parse_rest(self) -> None:
        """Parse what is left of what was read, and then read on."""
        self._parse_some()
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _parse_all(self) -> None:
        while self._unparsed:
            self._parse(self._unparsed.popleft())

    def _parse(self, data: bytes | memoryview) -> None:
        before = self._completed_requests
        self._read_size = len(data)
        try:
            while True:
                try:
                    self.parser.feed_data(data)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    data = data[upgrade.args[0] :]
                    self._tell_head_without_offer()
        except httptools.HttpParserError:
            self._unparsed.clear()
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("")
            return
        self._check_request_size()
        if self._completed_requests == before:
            self.expect_more()
        else:
            self.expect_nothing()

    def _tell_head_without_offer(self) -> None:
        """Parse a request's head once more, without the offer to switch to another protocol.

        A server may ignore an offer (RFC 9110, section 7.8), but the parser cannot: after a head
        with one it takes what follows for bytes of the other protocol, the body included.
        """
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def _check_request_size(self) -> None:
        self._request_bytes += self._read_size
        if self._request_bytes > HEAD_BYTES + READ_BYTES:
            if self._in_head:
                self.refusal = _head_too_large()
                self.send_400_response("")
            elif self._still_sending():
                if self._request_bytes > DISCARDED_BYTES + HEAD_BYTES + READ_BYTES:
                    self.transport.close()
            elif self._request_bytes > self._max_request_bytes:
                self.transport.abort()

    # The request.

    def on_message_begin(self) -> None:
        self._in_head = self._in_message = True
        self._request_bytes = self._body_bytes = self._chunks = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        large = self._request_bytes + self._read_size > HEAD_BYTES
        if len(self.headers) > HEADERS or (large and self._head_bytes() > HEAD_BYTES):
            raise self._refusal(_head_too_large())
        if self.parser.get_method() == b"CONNECT":
            raise self._refusal(MethodNotAllowed("this is no proxy: it takes no CONNECT"))
        self.http_1_1 = self.parser.get_http_version() == "1.1"
        self._offered = self.parser.should_upgrade()
        if not self._offered:
            self.start_request()

    def _refusal(self, error: ServiceError) -> ServiceError:
        """Raised by a callback of the parser, it ends the connection with this answer."""
        self.refusal = error
        return error

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def start_request(self) -> None:
        """Begin with a request whose head is complete and within the bounds."""
        super().on_headers_complete()
        cycle = self.cycle
        if self.open_connections.ending:
            cycle.keep_alive = False
        elif cycle.keep_alive:
            cycle.default_headers = [*cycle.default_headers, self.keep_alive_header]

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > FREE_CHUNKS and self._body_bytes < CHUNK_BYTES * (
            self._chunks - FREE_CHUNKS
        ):
            raise self._refusal(
                Undecodable(f"the body's chunks are too small: send {CHUNK_BYTES} bytes or more")
            )

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self.take_body(body)

    def take_body(self, body: bytes) -> None:
        """Take a part of the current request's body."""
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offered:
            return
        self._in_message = False
        self._completed_requests += 1
        if self.cycle.response_complete:
            # It was answered before its body was complete: the connection is idle only now.
            self._become_idle()
        else:
            self.end_request()

    def end_request(self) -> None:
        """Go on with a request whose body is complete."""
        super().on_message_complete()

    def expect_more(self) -> None:
        """Give the client ``receive_seconds`` for the rest of a request."""
        if self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(self._receive_seconds, self._too_late)

    def _too_late(self) -> None:
        self._late = None
        if not self.under_way():
            self.give_up()

    def under_way(self) -> bool:
        """True if there is a request whose answer is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def give_up(self) -> None:
        """Close the connection: what was expected has not come."""
        self.lingering.close_now()
        self._expect_taken()

    # The answer.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self._departure is not None and not self.pipeline:
            self._departure.stop()
        if not self.transport.is_closing():
            if self.pipeline:
                cycle, app = self.pipeline.pop()
                self._start_asgi_task(cycle, app)
            elif not self._in_message:
                self._become_idle()
            if self._unparsed:
                self.loop.call_soon(self._parse_rest)
            elif self.flow.read_paused:
                self.flow.resume_reading()
        if self.transport.get_write_buffer_size():
            self._expect_taken()

    def _become_idle(self) -> None:
        """Wait for the next request."""
        seconds = GRACE_SECONDS if self.open_connections.ending else self.timeout_keep_alive
        self._idle_until = self.loop.time() + seconds
        # A timer that runs is left alone: to start and cancel one for each request costs more
        # than to find, once in a while, that the connection has not been idle for long enough.
        if self.timeout_keep_alive_task is None or self.open_connections.ending:
            self._look_when_idle(seconds)
        self.open_connections.idle(self)

    def _look_when_idle(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for as long as it may."""
        self.timeout_keep_alive_task = None
        rest = self._idle_until - self.loop.time()
        if rest <= 0:
            super().timeout_keep_alive_handler()
            self._expect_taken()
        elif rest < math.inf:
            self._look_when_idle(rest)

    def close_idle(self) -> None:
        """Close the connection, which has no request."""
        self.transport.close()
        self._expect_taken()

    def end_soon(self) -> None:
        """Let the answer that is under way be the connection's last, and say so."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
            if isinstance(cycle, RequestResponseCycle):
                cycle.default_headers = [
                    header for header in cycle.default_headers if header != self.keep_alive_header
                ]

    def shutdown(self) -> None:
        """End as soon as nothing is under way; a request that is on its way is still answered."""
        self.lingering.hurry(GRACE_SECONDS)
        if self.under_way() or (self._in_message and not self._in_head):
            self.end_soon()
        elif not self.transport.is_closing():
            self._become_idle()
        self._expect_taken()

    def _expect_taken(self) -> None:
        """Give the client ``receive_seconds`` to take its answers."""
        if not self.transport.get_write_buffer_size():
            return
        if self._untaken is not None:
            self._untaken.cancel()
        self._untaken = self.loop.call_later(self._receive_seconds, self.drop_untaken)

    def drop_untaken(self) -> None:
        """Cut the connection if the client has not taken all of its answers."""
        if self.transport.get_write_buffer_size() or self.lingering.lingers:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser cannot read, after the requests before it, and close."""
        if self.under_way() and not self.cycle.more_body:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        self._refuse()

    def _refuse(self) -> None:
        self._refused = True
        body = msgspec.json.encode(self.refusal.body())
        self.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[self.refusal.status], len(body), body)
        )
        self.transport.close()
        self._expect_taken()


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the head is over {HEAD_BYTES} bytes, or has more than {HEADERS} headers")
