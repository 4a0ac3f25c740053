"""Clients that this project did not write, and connections without any client."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

PATIENCE = 20.0
"""Seconds after which a client counts as held for ever."""


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """A connection to a port of this machine."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def head(path: str, *headers: str, method: str = "POST", version: str = "1.1") -> bytes:
    """A request's head, without the headers that frame a body."""
    lines = [f"{method} {path} HTTP/{version}", "host: x", "content-type: application/json"]
    return "\r\n".join([*lines, *headers, "", ""]).encode()


def framed(path: str, body: Any, *headers: str, chunk: int = 0, **more: Any) -> tuple[bytes, bytes]:
    """A request with a JSON body: its head and its body, in chunks if their size is given."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    if not chunk:
        return head(path, *headers, f"content-length: {len(content)}", **more), content
    pieces = [content[start : start + chunk] for start in range(0, len(content), chunk)]
    sent = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head(path, *headers, "transfer-encoding: chunked", **more), sent + b"0\r\n\r\n"


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes or cuts the connection."""
    found = b""
    with suppress(ConnectionError):
        while part := connection.recv(65_536):
            found += part
    return found


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer, which has a length; interim ones are passed
    over."""
    found = b""
    while True:
        while b"\r\n\r\n" not in found:
            part = connection.recv(65_536)
            if not part:
                raise ConnectionError(f"the connection ended after {found!r}")
            found += part
        start, _, found = found.partition(b"\r\n\r\n")
        lines = start.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        if status >= 200:
            break
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:])
    }
    length = int(headers["content-length"])
    while len(found) < length:
        part = connection.recv(65_536)
        if not part:
            raise ConnectionError("the connection ended inside an answer")
        found += part
    assert len(found) == length, f"more than one answer came: {found[length:]!r}"
    return status, headers, found


def run(*words: str, given: bytes = b"") -> str:
    """Run a client to its end; return what it wrote."""
    return subprocess.run(
        words, input=given, capture_output=True, timeout=60, check=False
    ).stdout.decode()
