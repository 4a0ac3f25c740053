"""A TCP proxy of this machine that delays or cuts what passes through it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress


class Proxy:
    """Passes connections on to a port, from a thread of its own; use it as a context manager.

    ``delay`` holds up every answer by so many seconds; while ``holds`` is true no answer passes.
    New connections go to ``target``.
    With ``tls`` it speaks TLS to its clients.
    """

    def __init__(
        self,
        target: int,
        delay: float = 0.0,
        tls: ssl.SSLContext | None = None,
        holds: Callable[[], bool] = lambda: False,
    ) -> None:
        self.delay = delay
        self.holds = holds
        self.accepted = 0
        self.port = 0
        self.target = target
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def cut(self) -> None:
        """Close every connection."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    async def _cut(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._open.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._open.add(far_writer)
        await asyncio.gather(
            self._pass(reader, far_writer, back=False), self._pass(far_reader, writer, back=True)
        )
        self._open -= {writer, far_writer}

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if back and self.delay:
                    await asyncio.sleep(self.delay)
                while back and self.holds():  # noqa: ASYNC110 - a condition, not an event
                    await asyncio.sleep(0.01)
                writer.write(data)
                await writer.drain()
        writer.close()

    def __enter__(self) -> Proxy:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.port = server.sockets[0].getsockname()[1]
        self._server = server
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        await self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
