"""A transport that lets a client read its answer before the connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

LINGER_BYTES = 64 * 2**20
"""Bytes that are read and dropped of a client that goes on sending after its last answer."""


class LingeringTransport:
    """A connection's transport, whose ``close`` lingers where the client is still sending.

    A system that closes a socket with unread bytes answers them with a reset, and a reset makes
    the client's system drop what it has received: the answer is lost. So ``close`` ends the
    sending side only, and what still comes is dropped, until the client closes too, or has sent
    ``LINGER_BYTES``, or ``seconds`` are over.

    ``still_sending`` says whether the client may be sending when the connection is closed.
    Everything else is the transport's own.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        still_sending: Callable[[], bool],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._seconds = seconds
        self._still_sending = still_sending
        self._dropped = 0
        self._end: asyncio.TimerHandle | None = None
        # Every answer needs them, so they are not left to __getattr__.
        self.write: Callable[[bytes], None] = transport.write
        self.is_closing: Callable[[], bool] = transport.is_closing
        """True if nothing more can be written."""
        self.get_write_buffer_size = transport.get_write_buffer_size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @property
    def lingers(self) -> bool:
        """True if only the client's closing is waited for."""
        return self._end is not None

    def close(self) -> None:
        """Close the connection as soon as the client has read what was written."""
        if self.is_closing():
            return
        if self._still_sending():
            self._end = self._loop.call_later(self._seconds, self.close_now)
            # A request behind the last answer may still be under way; what it writes is dropped, as
            # a transport that is closed does by itself.
            self.write = lambda _: None
            self.is_closing = lambda: True
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def close_now(self) -> None:
        """Close the connection; what the client still sends is answered with a reset."""
        self.stop()
        self._transport.close()

    def hurry(self, seconds: float) -> None:
        """Linger for no more than these seconds from now on."""
        if self._end is not None:
            self._end.cancel()
            self._end = self._loop.call_later(seconds, self.close_now)

    def drop(self, size: int) -> None:
        """Note that so many bytes came while it lingers."""
        self._dropped += size
        if self._dropped > LINGER_BYTES:
            self.close_now()

    def stop(self) -> None:
        """Wait no longer; the connection has ended."""
        if self._end is not None:
            self._end.cancel()
