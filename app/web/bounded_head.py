"""uvicorn's HTTP protocol with a bound on what comes before and around a body."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import HeadTooLarge, ServiceError, Undecodable

HEAD_BYTES = 32 * 1024
"""Most bytes of a request's target and headers."""
HEADERS = 100
"""Most headers of a request."""
READ_BYTES = 256 * 1024
"""What may come at once: a head that is still incomplete is refused when so much more is there."""
FRAMING = 4
"""How many times as long as the largest body a request may be, with its chunks and trailers."""


class BoundedHead(HttpToolsProtocol):
    """HTTP/1.1 by httptools; one object for each connection.

    Neither httptools nor uvicorn has a bound of its own for what it keeps of a head or a trailer.
    ``refusal`` is what ``send_400_response`` shall say.
    """

    def __init__(self, max_body_bytes: int, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._most = FRAMING * max_body_bytes + HEAD_BYTES + READ_BYTES
        self.refusal: ServiceError = Undecodable("this is not HTTP/1.1")
        self._in_head = True
        self._bytes = self._chunk = 0

    def data_received(self, data: bytes) -> None:
        self._chunk = len(data)
        super().data_received(data)
        self._bytes += self._chunk
        if self._bytes > HEAD_BYTES + READ_BYTES:
            if self._in_head:
                self.refusal = _too_large()
                self.send_400_response("")
            elif self._bytes > self._most:
                self.transport.abort()

    def on_message_begin(self) -> None:
        self._in_head = True
        self._bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.check_head()
        super().on_headers_complete()

    def check_head(self) -> None:
        """Refuse a head that is too large.

        Raises:
            HeadTooLarge: it is; the parser stops, and the connection ends with that answer.
        """
        self._in_head = False
        large = self._bytes + self._chunk > HEAD_BYTES
        if len(self.headers) > HEADERS or (large and self._head_bytes() > HEAD_BYTES):
            self.refusal = _too_large()
            raise self.refusal

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)


def _too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the head is over {HEAD_BYTES} bytes, or has more than {HEADERS} headers")
