"""The end of a listener at which no connection is lost."""

from __future__ import annotations

import asyncio
import ctypes
import select
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress

TURNS = 1_000
"""Most turns of the event loop, of one connection each, in which connections are still accepted."""
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_RETURN_NOTHING = struct.pack("=HBBI", 6, 0, 0, 0)
"""A packet filter of one instruction: let no byte through."""


async def take_last_connections(listeners: Sequence[socket.socket]) -> None:
    """Have the event loop accept what the system holds for listeners, and let it hold no more.

    When a listener closes, the connections that wait to be accepted are reset, and with them the
    requests that their clients have sent. After this they can be closed: a client that comes
    meanwhile hears nothing, tries again after a second, and is refused.
    """
    held = select.poll()
    for listener in listeners:
        _hold_no_more(listener)
        held.register(listener, select.POLLIN)
    for _ in range(TURNS):
        if not held.poll(0):
            break
        await asyncio.sleep(0)


def take_connections_again(listeners: Sequence[socket.socket]) -> None:
    """Undo :func:`take_last_connections` for the process that inherits the listeners.

    A worker shares its listener with its successor: without this the successor, too, would hear
    of no new connection. Listening again gives the queue its length back.
    """
    for listener in listeners:
        if sys.platform == "linux" and listener.family in (socket.AF_INET, socket.AF_INET6):
            # Without a filter there is nothing to detach, which is an error.
            with suppress(OSError):
                listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def _hold_no_more(listener: socket.socket) -> None:
    listener.listen(0)
    if sys.platform == "linux" and listener.family in (socket.AF_INET, socket.AF_INET6):
        # A queue of length 0 still takes one connection. A filter on the listener drops what
        # opens one; connections that are accepted, or wait for that, are sockets of their own.
        program = ctypes.create_string_buffer(_RETURN_NOTHING, len(_RETURN_NOTHING))
        told = struct.pack("HP", 1, ctypes.addressof(program))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, told)
