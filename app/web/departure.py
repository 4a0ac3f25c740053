"""Departed clients told from half-closed ones, which still wait for their answer."""

from __future__ import annotations

import asyncio
import socket

ASK_SECONDS = 0.02
"""Seconds after the end, and then between two times, at which it is asked."""
INTERIM_ANSWER = b"HTTP/1.1 100 Continue\r\n\r\n"


class DepartureWatch:
    """Cuts the connection of a client that has left.

    Who only ends what it sends (``nc -N``, ``shutdown(SHUT_WR)``) waits for its answer; who has
    closed its socket does not, but to this side both look the same until something is sent: a
    closed socket answers that with a reset. An interim answer may be sent at any time, and every
    client of HTTP/1.1 passes over it (RFC 9110, section 15.2). It is only sent where the answer
    itself takes longer than ``ASK_SECONDS``.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def start(self, may_ask: bool) -> None:
        """Begin; without ``may_ask`` (HTTP/1.0) nothing is sent, and only a reset is noticed."""
        self._timer = self._loop.call_later(ASK_SECONDS, self._ask if may_ask else self._look)

    def _ask(self) -> None:
        self._transport.write(INTERIM_ANSWER)
        self._look()

    def _look(self) -> None:
        # After the end of what a client sends, transports listen to its socket no longer.
        if self._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(ASK_SECONDS, self._look)

    def stop(self) -> None:
        """Ask no more: the answer is there, or the connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
