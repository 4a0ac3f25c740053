"""uvicorn's HTTP protocol with bounds for clients that take their time."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from app.web.bounded_head import BoundedHead


class BoundedProtocol(BoundedHead):
    """HTTP/1.1 by httptools; one object for each connection.

    A request, from its first byte to the last of its body, must have arrived within
    ``receive_seconds``, and so must a connection's first request; an answer must have been taken
    within the same time. Else the connection is closed. Between requests uvicorn's own bound
    applies.
    """

    def __init__(self, receive_seconds: float, max_body_bytes: int, **uvicorns: Any) -> None:
        super().__init__(max_body_bytes, **uvicorns)
        self._receive_seconds = receive_seconds
        self._arrivals = 0
        self._late: asyncio.TimerHandle | None = None
        self._untaken: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None

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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        before = self._arrivals
        super().data_received(data)
        if self._arrivals == before:
            self.expect_more()
        elif self._late is not None:
            self._late.cancel()
            self._late = None

    def on_message_complete(self) -> None:
        self.has_arrived()
        super().on_message_complete()

    def has_arrived(self) -> None:
        """Note that a request is complete."""
        self._arrivals += 1

    def expect_more(self) -> None:
        """Wait for the rest of a request, but not for ever."""
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
        """Wait until the client has taken its answers, but not for ever."""
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
