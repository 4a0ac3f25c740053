"""A listener that ends: clients that believe they are connected have their answer."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from app.web.last_connections import (
    begun_ports,
    take_connections_again,
    take_last_connections,
)
from tests.support.serving import wait_until

QUESTION, ANSWER = b"?", b"!"


class _Answering(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWER)
        self._transport.close()


def _listener(family: socket.AddressFamily, address: str) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind((address, 0))
    listener.listen(64)
    return listener


async def _ask(client: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, QUESTION)
    return await asyncio.wait_for(loop.sock_recv(client, 1), 10)


def _client(listener: socket.socket) -> socket.socket:
    client = socket.socket(listener.family, socket.SOCK_STREAM)
    client.connect(listener.getsockname())
    client.setblocking(False)
    return client


pytestmark = pytest.mark.anyio
ADDRESSES = pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)


@ADDRESSES
async def test_connections_that_wait_are_answered(
    family: socket.AddressFamily, address: str
) -> None:
    listener = _listener(family, address)
    clients = [_client(listener) for _ in range(20)]
    async with await asyncio.get_running_loop().create_server(_Answering, sock=listener):
        await take_last_connections([listener])
    assert await asyncio.gather(*(_ask(client) for client in clients)) == [ANSWER] * 20
    for client in clients:
        client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_DEFER_ACCEPT is Linux's")
@ADDRESSES
async def test_a_handshake_that_has_begun_is_awaited(
    family: socket.AddressFamily, address: str
) -> None:
    listener = _listener(family, address)
    # The system takes a handshake for complete when its first data come: until then the client
    # is connected, and the listener has nothing to accept.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)
    client = _client(listener)
    async with await asyncio.get_running_loop().create_server(_Answering, sock=listener):
        ending = asyncio.create_task(take_last_connections([listener]))
        await asyncio.sleep(0.02)
        assert not ending.done()
        asked = asyncio.create_task(_ask(client))
        await ending
    assert await asked == ANSWER
    client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="sock_diag is Linux's")
@ADDRESSES
def test_the_system_tells_of_handshakes(family: socket.AddressFamily, address: str) -> None:
    """Of those that have begun, and no longer of one that is complete."""
    with closing(_listener(family, address)) as listener:
        port = listener.getsockname()[1]
        with closing(_client(listener)):
            wait_until(lambda: port not in begun_ports(family), "it is complete")
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)
        with closing(_client(listener)) as client:
            assert port in begun_ports(family)
            client.send(QUESTION)
            wait_until(lambda: port not in begun_ports(family), "it is complete")


@pytest.mark.skipif(sys.platform != "linux", reason="the table of sockets is Linux's")
@ADDRESSES
async def test_a_handshake_is_awaited_where_the_system_only_has_its_table(
    family: socket.AddressFamily, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some containers have no sock_diag."""

    def refuse(family: socket.AddressFamily) -> set[int]:
        raise PermissionError

    monkeypatch.setattr("app.web.last_connections.begun_ports", refuse)
    await test_a_handshake_that_has_begun_is_awaited(family, address)


@pytest.mark.skipif(sys.platform != "linux", reason="a packet filter is Linux's")
@ADDRESSES
async def test_a_new_client_hears_nothing_until_the_successor_listens(
    family: socket.AddressFamily, address: str
) -> None:
    listener = _listener(family, address)
    loop = asyncio.get_running_loop()
    with closing(listener):
        await take_last_connections([listener])
        with closing(socket.socket(family, socket.SOCK_STREAM)) as client:
            client.setblocking(False)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_connect(client, listener.getsockname()), 0.1)
        take_connections_again([listener])
        async with await loop.create_server(_Answering, sock=listener):
            client = _client(listener)
            assert await _ask(client) == ANSWER
            client.close()


async def test_a_unix_socket_ends_likewise(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "socket"))
    listener.listen(64)
    client = _client(listener)
    async with await asyncio.get_running_loop().create_unix_server(_Answering, sock=listener):
        await take_last_connections([listener])
    assert await _ask(client) == ANSWER
    client.close()
    with suppress(FileNotFoundError):
        (tmp_path / "socket").unlink()
