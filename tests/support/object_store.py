"""A local S3 server out of the package moto, and a way to it that fails."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.support.children import ending_with_us
from tests.support.proxy import Proxy
from tests.support.serving import free_port

START_SECONDS = 60.0
THROTTLED = (
    b"HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\ncontent-length: 88\r\n"
    b"connection: close\r\n\r\n"
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce it.</Message></Error>\n\n"
)


class S3Server:
    """A server of this machine; use it as a context manager. It keeps nothing on disk."""

    def __init__(self, python: Path, log: Path, guarded: bool = False) -> None:
        self.port = free_port()
        self._python, self._log = python, log
        self._env = {"INITIAL_NO_AUTH_ACTION_COUNT": "0"} if guarded else {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        words = [str(self._python), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ending_with_us(words), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._env,
            )  # fmt: skip
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"moto did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def variables(self, port: int | None = None) -> dict[str, str]:
        """Return the variables by which a program finds it; ``port`` is that of a way to it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.5):
            return True
        return False


class FaultyWay(Proxy):
    """Passes connections on to a server, and fails on some of them.

    ``throttled`` connections to come are told to slow down; of the answers of ``cut`` connections
    to come only the first ``cut_after`` bytes pass.
    """

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.throttled = 0
        self.cut = 0
        self.cut_after = 100_000
        self.faults = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.throttled <= 0:
            await super()._serve(reader, writer)
            return
        self.throttled -= 1
        self.faults += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(THROTTLED)
            await writer.drain()
        writer.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: bool
    ) -> None:
        if not back:
            await super()._pass(reader, writer, back)
            return
        passed = 0
        with suppress(OSError):
            while data := await reader.read(65_536):
                passed += len(data)
                if self.cut > 0 and passed > self.cut_after:
                    self.cut -= 1
                    self.faults += 1
                    writer.transport.abort()
                    return
                writer.write(data)
                await writer.drain()
        writer.close()
