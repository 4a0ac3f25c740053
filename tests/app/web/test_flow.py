"""Requests of a client that does not read its answers wait in sockets, not in the service."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from tests.conftest import StartService
from tests.support.inside import request, serving
from tests.support.serving import Wire

MIB = 2**20
SENT_BYTES = 160 * MIB
"""Far more than the sockets of both sides hold."""
HELD_BYTES = 48 * MIB
ROW: dict[str, Any] = {"instances": [{"placement": "top"}]}
ROUNDS, BURST = 50, 60
MANY_WAITING = 200
"""More requests than fit into one slice of what is parsed at once."""


@pytest.mark.e2e
@pytest.mark.parametrize("path", ["/predict", "/predict?way=2", "/v1/models/x:predict"])
def test_a_client_that_pipelines_and_reads_nothing_is_not_read(
    start_service: StartService, path: str
) -> None:
    """Its small requests stay in the sockets, whose buffers the kernel bounds."""
    service = start_service(receive_seconds=60)
    before = service.resident_bytes()
    service.forget_peak()
    block = request(ROW, path=path) * 10_000
    sent = 0
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(2)
        connection.connect(("127.0.0.1", service.port))
        with suppress(TimeoutError):
            while sent < SENT_BYTES:
                sent += connection.send(block)
        assert service.peak_bytes() - before < HELD_BYTES
        assert service.predict(ROW["instances"])
    assert sent < SENT_BYTES


@pytest.mark.anyio
async def test_requests_of_a_slow_reader_do_not_pile_up(tiny_bundle: Path) -> None:
    """However many requests come for each answer that is read, few wait in the service."""
    async with serving(tiny_bundle, deadline_ms=60_000) as (server, port):
        wire = await Wire.open(port)
        most = 0
        try:
            async with asyncio.timeout(60):
                for _ in range(ROUNDS):
                    for _ in range(BURST):
                        wire.send("/v1/models/x:predict", b'{"instances":[]}')
                    await wire.answer()
                    (connection,) = server.server_state.connections
                    most = max(most, len(cast(Any, connection).pipeline))
                for _ in range(ROUNDS * (BURST - 1)):
                    assert (await wire.answer())[0] == 200
        finally:
            await wire.close()
    assert most < MANY_WAITING
