"""Bodies in small chunks, and floods of small requests, hold up nobody else."""

from __future__ import annotations

import json

import pytest

from app.web.bounded_protocol import CHUNK_BYTES, FREE_CHUNKS
from tests.conftest import Sample
from tests.support.clients import connected, framed, head, read_all, read_answer
from tests.support.errors import error_of
from tests.support.serving import Service

pytestmark = pytest.mark.e2e


def spaced(sample: Sample, size: int) -> bytes:
    """A body of about a size: a row and spaces."""
    return json.dumps({"instances": sample.rows[:1]}).encode().ljust(size)


@pytest.mark.parametrize("path", ["/predict", "/v1/models/x:predict"])
@pytest.mark.parametrize("chunk", [1, 16, CHUNK_BYTES - 10])
def test_small_chunks_are_refused(service: Service, sample: Sample, path: str, chunk: int) -> None:
    """400 with what to do, and the end of the connection."""
    start, body = framed(path, spaced(sample, 400_000), chunk=chunk)
    with connected(service.port) as connection:
        connection.sendall(start + body)
        status, headers, answer = read_answer(connection)
    assert status == 400
    assert headers["connection"] == "close"
    assert f"send {CHUNK_BYTES} bytes or more" in error_of(answer)["message"]


@pytest.mark.parametrize("path", ["/predict", "/v1/models/x:predict"])
@pytest.mark.parametrize(
    ("size", "chunk"), [(FREE_CHUNKS - 10, 1), (4_000, 7), (400_000, CHUNK_BYTES), (400_000, 9_000)]
)
def test_other_chunks_are_read(
    service: Service, sample: Sample, path: str, size: int, chunk: int
) -> None:
    """Short bodies may come in chunks of any size, long ones in chunks that are not tiny."""
    start, body = framed(path, spaced(sample, size), chunk=chunk)
    with connected(service.port) as connection:
        for _ in range(2):
            connection.sendall(start + body)
            assert read_answer(connection)[0] == 200


def test_a_flood_of_pipelined_requests_is_answered(service: Service) -> None:
    """All of them, in order, though they are parsed in parts."""
    count = 3_000
    with connected(service.port) as connection:
        connection.sendall(
            head("/live", method="GET") * count
            + head("/nothing", "connection: close", method="GET")
        )
        answer = read_all(connection)
    assert answer.count(b"HTTP/1.1 200 ") == count
    assert answer.count(b"HTTP/1.1 404 ") == 1
    assert answer.rfind(b"HTTP/1.1 404 ") > answer.rfind(b"HTTP/1.1 200 ")
