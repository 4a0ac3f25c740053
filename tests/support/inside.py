"""A real service inside the test's own process, so that a test can look at its objects."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from app.main import build_server
from app.settings import Settings
from app.web.server import ServiceServer
from app.workers.listeners import Listeners
from tests.support.serving import free_port

SECONDS = 60.0


@asynccontextmanager
async def serving(bundle: Path, **settings: Any) -> AsyncIterator[tuple[ServiceServer, int]]:
    """Run a ready service in this loop until the end of the block; give it and its port."""
    interval = sys.getswitchinterval()
    # A busy machine may be late: tests of deadlines set their own.
    chosen = Settings(bundle=bundle, port=free_port(), **{"deadline_ms": 60_000, **settings})
    ((listener,),) = Listeners(chosen.host, chosen.port, 1).of_worker
    server = build_server(chosen, [listener], admin_listeners=[])
    # Signals are the test's own, and so are its children.
    server.capture_signals = nullcontext  # type: ignore[method-assign]
    running = asyncio.create_task(server.serve([listener]))
    try:
        await until(lambda: server.state.ready and server.started, "the service is ready")
        yield server, chosen.port
    finally:
        server.stop()
        await running
        sys.setswitchinterval(interval)


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for a condition; fail by its name when it takes too long."""
    try:
        async with asyncio.timeout(SECONDS):
            while not holds():  # noqa: ASYNC110 (a condition of other objects has no event)
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {SECONDS:g} s: {what}") from None


def request(body: Any, *headers: str, path: str = "/predict") -> bytes:
    """A whole request with a JSON body."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    more = "".join(f"{header}\r\n" for header in headers)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{more}"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content
