"""A service that answers after a fixed time and may stall once; run as a process of its own.

``python -m tests.load.tests.stub PORT DELAY_S [STALL_AT STALL_S]``: every POST is answered,
rightly for a /predict of one row, after the delay; at the given POST everything stands still.
Every GET is answered at once, with the number of POSTs so far.
"""

from __future__ import annotations

import asyncio
import sys
import time

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
ANSWER = b'{"predictions": [0.5], "version": "stub"}'


class Connection(asyncio.Protocol):
    """Reads requests by their announced length; one is on its way at a time."""

    posts = 0

    def __init__(self, delay: float, stall_at: int, stall: float) -> None:
        self._delay, self._stall_at, self._stall = delay, stall_at, stall
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        _, _, length = head.lower().partition(b"content-length:")
        if not end or len(body) < int(length.split(b"\r\n")[0] or 0):
            return
        self._received = b""
        if head.startswith(b"GET"):
            self._answer(b'{"version": "stub", "posts": %d}' % Connection.posts)
            return
        Connection.posts += 1
        if Connection.posts == self._stall_at:
            time.sleep(self._stall)
        asyncio.get_running_loop().call_later(self._delay, self._answer, ANSWER)

    def _answer(self, content: bytes) -> None:
        self._transport.write(HEAD % len(content) + content)


async def serve(port: int, delay: float, stall_at: int, stall: float) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(delay, stall_at, stall), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    port, delay, stall_at, stall = [*sys.argv[1:], "0", "0"][:4]
    asyncio.run(serve(int(port), float(delay), int(stall_at), float(stall)))
