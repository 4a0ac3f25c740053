"""Connections that threads borrow."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx

KEEPALIVE_SECONDS = 4.0
"""Time for which an idle connection is kept: less than any server or proxy does, so that no request
meets one that is just being closed."""


class Connections:
    """At most ``count`` connections to ``url``, each lent to one thread at a time.

    Each is an httpx client of its own: in a pool of httpx that threads share, a connection can be
    closed under the thread that has just got it.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None, count: int) -> None:
        self._url, self._headers = url, headers
        self._certificates = httpx.create_ssl_context()
        self._places = threading.BoundedSemaphore(count)
        self._lock = threading.Lock()
        self._idle: deque[tuple[float, httpx.Client]] = deque()
        self._lent: set[httpx.Client] = set()
        self._closed = False

    @contextmanager
    def lend(self, seconds: float) -> Iterator[httpx.Client]:
        """Lend a connection; wait ``seconds`` for one.

        Raises:
            httpx.PoolTimeout: none became free.
        """
        if not self._places.acquire(timeout=seconds):
            raise httpx.PoolTimeout("no connection became free")
        try:
            connection = self._take()
            try:
                yield connection
            finally:
                self._take_back(connection)
        finally:
            self._places.release()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            self._closed = True
            found = [*self._lent, *(connection for _, connection in self._idle)]
            self._idle.clear()
        for each in found:
            each.close()

    def _take(self) -> httpx.Client:
        """Return the connection that was used last, or a new one."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            found = self._idle.pop()[1] if self._idle else self._new()
            self._lent.add(found)
            return found

    def _take_back(self, connection: httpx.Client) -> None:
        """Keep a connection for the next thread, and close those that nobody used for long."""
        now = time.monotonic()
        old = []
        with self._lock:
            self._lent.remove(connection)
            if self._closed:
                return
            self._idle.append((now, connection))
            while self._idle[0][0] < now - KEEPALIVE_SECONDS:
                old.append(self._idle.popleft()[1])
        for each in old:
            each.close()

    def _new(self) -> httpx.Client:
        return httpx.Client(
            base_url=self._url,
            headers=self._headers,
            verify=self._certificates,
            limits=httpx.Limits(
                max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE_SECONDS
            ),
        )
