"""Connections that one request at a time uses, for threads that share a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx


class OwnConnections(httpx.BaseTransport):
    """Lends each request a transport that no other request uses meanwhile.

    In a pool that threads share, one of them can take a connection for idle that another one is
    about to use, find it readable once the answer is there, and close it: the other one's request
    ends with an error (httpcore 1.0, ``HTTPConnection.has_expired``).
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._idle: list[httpx.HTTPTransport] = []
        self._all: list[httpx.HTTPTransport] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over the connections that were used last, of those that are free."""
        try:
            lent = self._idle.pop()
        except IndexError:
            lent = httpx.HTTPTransport(**self._options)
            self._all.append(lent)
        try:
            answer = lent.handle_request(request)
        except BaseException:
            self._idle.append(lent)
            raise
        answer.stream = _Lent(answer.stream, lambda: self._idle.append(lent))
        return answer

    def close(self) -> None:
        """Close all connections."""
        for each in self._all:
            each.close()


class _Lent(httpx.SyncByteStream):
    """A body whose end gives the connections back."""

    def __init__(self, body: Any, give_back: Callable[[], None]) -> None:
        self._body, self._give_back = body, give_back
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._body

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._body.close()
        finally:
            self._give_back()
