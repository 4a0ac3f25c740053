"""Heads of requests that were parsed before: the same bytes mean the same request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from app.web.exchange import Endpoint, Header

MOST_HEADS, MOST_BYTES = 1_024, 1_024
"""Heads that are kept, and the length of the longest: together some 1 MiB at most."""
_END = b"\r\n\r\n"
_ID = re.compile(rb"\r\nx-request-id: ([\x21-\x7e]{1,128})(?=\r\n[^ \t])", re.IGNORECASE)


class KnownHead(NamedTuple):
    """The meaning of a head: of a request of HTTP/1.1 that keeps its connection."""

    endpoint: Endpoint
    length: int
    """Bytes of the body."""
    seconds: float
    """Time until the deadline."""


class KnownHeads:
    """The heads of a server's usual requests, so that each is parsed once.

    Clients send the same head again and again, but for the id of the request and the length of
    the body. The id is cut out; each length has a head of its own. Only the parser and the
    endpoints decide what a head means: one that they have not accepted is never found here.
    A full table is emptied, so heads that never repeat cost little and take no more memory.
    """

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}

    def find(self, data: bytes) -> tuple[KnownHead, bytes, bytes] | None:
        """Return head, request id (empty without one) and body of a whole request.

        None unless ``data`` is one request, to its last byte, and its head is known.
        """
        end = data.find(_END) + len(_END)
        head = data[:end]
        request_id = b""
        known = self._heads.get(head)
        if known is None:
            head, request_id = _without_id(head)
            known = self._heads.get(head) if request_id else None
        if known is None or len(data) - end != known.length:
            return None
        return known, request_id, data[end:]

    def add(
        self, data: bytes, headers: Sequence[Header], endpoint: Endpoint, seconds: float
    ) -> None:
        """Keep the head of a request that was accepted, if it is a usual one.

        ``data`` is the request, to its last byte, ``headers`` are what the parser found in it.
        """
        end = data.find(_END) + len(_END)
        length = len(data) - end
        head, request_id = _without_id(data[:end])
        names = [name for name, _ in headers]
        if (
            len(head) <= MOST_BYTES
            and names.count(b"content-length") == 1
            and (b"content-length", b"%d" % length) in headers
            and b"transfer-encoding" not in names
            and names.count(b"x-request-id") == bool(request_id)
            and (not request_id or (b"x-request-id", request_id) in headers)
        ):
            if len(self._heads) >= MOST_HEADS:
                self._heads.clear()
            self._heads[head] = KnownHead(endpoint, length, seconds)


def _without_id(head: bytes) -> tuple[bytes, bytes]:
    """Return a head without its first request id, and the id: empty without a usual one."""
    found = _ID.search(head)
    if found is None:
        return head, b""
    return head[: found.start()] + head[found.end() :], found[1]
