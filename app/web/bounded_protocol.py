"""uvicorn's HTTP protocol with bounds on what comes around a body, and on how long it takes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app.errors import HeadTooLarge, ServiceError, Undecodable

HEAD_BYTES = 32 * 1024
"""Most bytes of a request's target and headers."""
HEADERS = 100
"""Most headers of a request."""
READ_BYTES = 256 * 1024
"""What may come at once: a head that is still incomplete is refused when so much more is there."""
FRAMING = 4
"""How many times as long as the largest body a request may be, with its chunks and trailers."""


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 by httptools; one object for each connection.

    A request, from its first byte to the last of its body, must arrive within
    ``receive_seconds``, and so must a connection's first request; an answer must be taken within
    the same time. Else the connection is closed. Between requests uvicorn's own bound applies.

    Neither httptools nor uvicorn bounds what it keeps of a head or a trailer; this does.
    ``refusal`` is what ``send_400_response`` says.
    """

    def __init__(self, receive_seconds: float, max_body_bytes: int, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._receive_seconds = receive_seconds
        self._max_request_bytes = FRAMING * max_body_bytes + HEAD_BYTES + READ_BYTES
        self.refusal: ServiceError = Undecodable("this is not HTTP/1.1")
        self._in_head = True
        self._request_bytes = self._read_size = 0
        self._completed_requests = 0
        self._late: asyncio.TimerHandle | None = None
        self._untaken: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.expect_more()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._late, self._untaken):
            if timer is not None:
                timer.cancel()
        # uvicorn tells the newest request only; one that others wait behind would go on to write.
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self._completed_requests
        self._read_size = len(data)
        super().data_received(data)
        self._check_request_size()
        if self._completed_requests == before:
            self.expect_more()
        elif self._late is not None:
            self._late.cancel()
            self._late = None

    def _check_request_size(self) -> None:
        self._request_bytes += self._read_size
        if self._request_bytes > HEAD_BYTES + READ_BYTES:
            if self._in_head:
                self.refusal = _head_too_large()
                self.send_400_response("")
            elif self._request_bytes > self._max_request_bytes:
                self.transport.abort()

    # The request.

    def on_message_begin(self) -> None:
        self._in_head = True
        self._request_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.check_head()
        super().on_headers_complete()

    def check_head(self) -> None:
        """Refuse a head that is too large.

        Raises:
            HeadTooLarge: the parser stops, and the connection ends with that answer.
        """
        self._in_head = False
        large = self._request_bytes + self._read_size > HEAD_BYTES
        if len(self.headers) > HEADERS or (large and self._head_bytes() > HEAD_BYTES):
            self.refusal = _head_too_large()
            raise self.refusal

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def on_message_complete(self) -> None:
        self.count_completed()
        super().on_message_complete()

    def count_completed(self) -> None:
        """Note that a request is complete."""
        self._completed_requests += 1

    def expect_more(self) -> None:
        """Give the client ``receive_seconds`` for the rest of a request."""
        if self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(self._receive_seconds, self._too_late)

    def _too_late(self) -> None:
        self._late = None
        if not self.under_way():
            self.give_up()

    def under_way(self) -> bool:
        """Whether there is a request whose answer is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def give_up(self) -> None:
        """Close the connection: what was expected has not come."""
        self.transport.close()
        self._expect_taken()

    # The answer.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_taken()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect_taken()

    def shutdown(self) -> None:
        super().shutdown()
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
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser cannot read, after the requests before it, and close."""
        if self.under_way() and not self.cycle.more_body:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        body = msgspec.json.encode(self.refusal.body())
        self.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[self.refusal.status], len(body), body)
        )
        self.give_up()


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the head is over {HEAD_BYTES} bytes, or has more than {HEADERS} headers")
