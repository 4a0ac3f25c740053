"""The connections of a server: how many there may be, and whether they are being ended."""

from __future__ import annotations

import resource
from typing import Protocol

SPARE_DESCRIPTORS = 100
"""Descriptors that connections leave to bundles, Redis, logs and the process itself."""
WITHOUT_LIMIT = 100_000
"""Connections of a process whose descriptors the system does not limit."""


class Connection(Protocol):
    """The part of a connection that is used here."""

    def close_idle(self) -> None:
        """Close it; it has no request."""
        ...


class Connections:
    """Bounds the connections of a server: at ``most`` the one that is idle for the longest ends.

    Once they are ``ending``, each answer is its connection's last and says ``connection: close``.
    """

    def __init__(self, most: int, keep_alive_seconds: int) -> None:
        self.most = most
        self.keep_alive_seconds = keep_alive_seconds
        self.ending = False
        self._open = 0
        # A dict keeps the order in which connections became idle, and forgets one in no time.
        self._idle: dict[Connection, None] = {}

    def opened(self, connection: Connection) -> bool:
        """Note a new connection, which is idle; return whether there is room for it."""
        self._open += 1
        if self._open > self.most:
            if not self._idle:
                return False
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            oldest.close_idle()
        self._idle[connection] = None
        return True

    def closed(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        self._open -= 1
        self._idle.pop(connection, None)

    def busy(self, connection: Connection) -> None:
        """Note that a connection has a request, or the beginning of one."""
        self._idle.pop(connection, None)

    def idle(self, connection: Connection) -> None:
        """Note that a connection has had its answers and waits for a request."""
        self._idle[connection] = None


def most_connections() -> int:
    """The connections for which this process has descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return WITHOUT_LIMIT
    return max(1, min(soft - SPARE_DESCRIPTORS, WITHOUT_LIMIT))
