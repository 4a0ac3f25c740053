"""Damaged requests, head and all, sent as bytes: answered or closed, never a 5xx, never a trace."""

from __future__ import annotations

import json
import random
import re
import socket
from contextlib import suppress

import pytest

from tests.conftest import Sample, StartService
from tests.fuzz.bodies import damage
from tests.support.serving import Service

pytestmark = pytest.mark.e2e

REQUESTS = 3_000
PATIENCE = 20.0
EXTRA = [
    "content-length: 5", "content-length: -1", "transfer-encoding: chunked", "expect: 100-continue",
    "connection: close", "connection: keep-alive, upgrade", "upgrade: h2c", "x-request-id: é",
    "x-request-timeout-ms: 9000", "x-request-timeout-ms: 0", "content-encoding: gzip",
    "te: trailers",
    "content-type: text/plain", "content-type: application/json; charset=utf-16", "host: a\0b",
    "range: bytes=0-1", "x: " + "y" * 40_000, "\tfolded", ": no name", "cookie: a=b",
]  # fmt: skip
PATHS = ["/predict", "/rank", "/v1/models/x:predict", "/live", "/ready", "/metrics", "/model", "/",
         "*", "//", "/%00", "/predict?" + "q" * 100, "http://x/predict"]  # fmt: skip
METHODS = ["POST", "POST", "POST", "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "CONNECT", "PRI"]


def request(rng: random.Random, body: bytes) -> bytes:
    """A request that is odd somewhere, and damaged there or elsewhere."""
    lines = [f"{rng.choice(METHODS)} {rng.choice(PATHS)} HTTP/1.1", "host: x"]
    if rng.random() < 0.8:
        lines.append("content-type: application/json")
    if rng.random() < 0.8:
        lines.append(f"content-length: {len(body)}")
    for _ in range(rng.randrange(3)):
        lines.insert(rng.randrange(1, len(lines) + 1), rng.choice(EXTRA))
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    if rng.random() < 0.5:
        head = damage(rng, head)
    return head + body * rng.randrange(1, 3)


def ask(service: Service, sent: bytes) -> bytes:
    """Send bytes, say that there will be no more, and return what comes back."""
    found = b""
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE) as connection:
        with suppress(ConnectionError, BrokenPipeError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while part := connection.recv(65_536):
                found += part
    return found


def test_damaged_requests_harm_nobody(start_service: StartService, sample: Sample) -> None:
    """Each is answered below 500 or closed, and a valid request in between gets its score."""
    service = start_service()
    rng = random.Random(9)
    body = json.dumps({"instances": sample.rows[:1]}).encode()
    (expected,) = service.predict(sample.rows[:1])
    statuses: set[int] = set()
    for number in range(REQUESTS):
        sent = request(rng, body)
        answer = ask(service, sent)
        found = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]
        assert answer == b"" or answer.startswith(b"HTTP/1.1 "), (sent, answer)
        assert all(status < 500 for status in found), (sent, answer)
        statuses |= set(found)
        if number % 20 == 0:
            assert service.predict(sample.rows[:1]) == pytest.approx([expected], abs=1e-6)
    assert {200, 400, 404, 405, 415, 422, 431} <= statuses
    assert not [event for event in service.events() if event["level"] == "error"]
