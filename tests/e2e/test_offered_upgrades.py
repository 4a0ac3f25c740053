"""A client that offers to switch to another protocol is answered in HTTP/1.1, as if it did not.

curl ``--http2``, Java's HttpClient and others offer ``h2c`` with every plain request.
"""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Sample, StartService
from tests.support.clients import connected, framed, head, read_all, read_answer, run
from tests.support.programs import program
from tests.support.samples import context_of
from tests.support.serving import Service, free_port

pytestmark = pytest.mark.e2e
KEY = "0123456789abcdef" * 4
TOKENS = ["h2c", "websocket", "TLS/1.0", "anything/9", "h2c, websocket", "HTTP/2.0"]
SMUGGLED = b"GET /model HTTP/1.1\r\nhost: x\r\n\r\n"
H2C = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__")


def offer(token: str) -> tuple[str, str]:
    return "connection: keep-alive, Upgrade", f"upgrade: {token}"


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("path", ["/predict", "/rank", "/v1/models/x:predict"])
@pytest.mark.parametrize("chunk", [0, 7], ids=["length", "chunked"])
def test_the_offer_is_ignored_and_the_connection_goes_on(
    service: Service, sample: Sample, token: str, path: str, chunk: int
) -> None:
    """One 200 for each request, whatever is offered, and however the body comes."""
    row = sample.rows[0]
    body: Any = {"instances": [row]}
    if path == "/rank":
        body = {"context": context_of(row), "candidates": []}
    start, content = framed(path, body, *offer(token), chunk=chunk)
    plain = b"".join(framed(path, body))
    with connected(service.port) as connection:
        for writes in ([start + content], [start, content], [start[:20], start[20:], content]):
            for write in writes:
                connection.sendall(write)
            status, headers, _ = read_answer(connection)
            assert status == 200
            assert "upgrade" not in headers
            assert headers.get("connection", "keep-alive") != "close"
        connection.sendall(plain)
        assert read_answer(connection)[0] == 200


@pytest.mark.parametrize("separate", [False, True], ids=["one write", "two writes"])
@pytest.mark.parametrize("path", ["/predict", "/v1/models/x:predict", "/live", "/nothing"])
def test_a_body_is_never_read_as_a_request(service: Service, path: str, separate: bool) -> None:
    """A body that looks like a request is a body: one answer, and not to what stands in it."""
    start, content = framed(path, SMUGGLED, *H2C)
    with connected(service.port) as connection:
        connection.sendall(start if separate else start + content)
        if separate:
            connection.sendall(content)
        status, _, answer = read_answer(connection)
        assert status in (400, 404, 405)
        assert b"network" not in answer
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b"", "there is one answer"


@pytest.mark.parametrize("separate", [False, True], ids=["one write", "two writes"])
def test_a_body_is_never_read_as_a_request_on_the_admin_port(
    start_service: StartService, tmp_path: Path, separate: bool
) -> None:
    """The same holds for the admin port, with a key and without one."""
    port, keys = free_port(), tmp_path / "keys"
    keys.write_text(f"{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    start_service(admin_port=port, admin_key_file=keys)
    hidden = head("/admin/bundles", f"authorization: Bearer {KEY}", method="GET")
    for key in ((), (f"authorization: Bearer {KEY}",)):
        start, content = framed("/admin/bundles/x/activate", hidden, *H2C, *key)
        with connected(port) as connection:
            connection.sendall(start if separate else start + content)
            if separate:
                connection.sendall(content)
            status, _, answer = read_answer(connection)
            assert status == (404 if key else 401)
            assert b'"bundles"' not in answer
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection) == b""


def test_requests_behind_an_offer_keep_their_order(service: Service, sample: Sample) -> None:
    """Pipelined behind each other, some with an offer, each gets its own answer."""
    sizes = [2, 0, 3, 1]
    asked = b"".join(
        part
        for place, size in enumerate(sizes)
        for part in framed(
            "/predict",
            {"instances": sample.rows[:size]},
            *(H2C if place % 2 == 0 else ()),
            *(("connection: close",) if place == 3 else ()),
        )
    )
    with connected(service.port) as connection:
        connection.sendall(asked)
        answers = read_all(connection).split(b"HTTP/1.1 200 ")[1:]
    found = [json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"] for answer in answers]
    assert [len(scores) for scores in found] == sizes


def test_an_offer_in_a_large_head_is_ignored_too(service: Service) -> None:
    """The bounds of a head are those of any other."""
    for size, expected in ((30_000, 200), (40_000, 431)):
        start, content = framed("/predict", {"instances": []}, *H2C, f"x-more: {'a' * size}")
        with connected(service.port) as connection:
            connection.sendall(start + content)
            assert read_answer(connection)[0] == expected


def test_http_1_0_may_offer_as_well(service: Service) -> None:
    """It is answered, and its connection ends as without an offer."""
    start, content = framed("/predict", {"instances": []}, *offer("h2c"), version="1.0")
    with connected(service.port) as connection:
        connection.sendall(start + content)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_client_that_waits_for_leave_to_send_gets_it(service: Service) -> None:
    """``Expect: 100-continue`` beside an offer."""
    start, content = framed("/predict", {"instances": []}, *H2C, "expect: 100-continue")
    with connected(service.port) as connection:
        connection.sendall(start)
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(content)
        assert read_answer(connection)[0] == 200


def test_connect_is_refused(service: Service) -> None:
    """This is no proxy: 405, and what follows is no request."""
    with connected(service.port) as connection:
        connection.sendall(b"CONNECT example.test:80 HTTP/1.1\r\nhost: x\r\n\r\n" + SMUGGLED)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"connection: close" in answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("size", [1, 3_000])
def test_curl_with_http2(service: Service, sample: Sample, tmp_path: Path, size: int) -> None:
    """curl's own offer, with a body of one row and with one that it sends in a write of its own."""
    curl = program("curl")
    if "HTTP2" not in run(curl, "--version"):
        pytest.skip("this curl knows no HTTP/2")
    body = tmp_path / "body"
    body.write_text(json.dumps({"instances": [sample.rows[0]] * size}))
    for url in (f"{service.url}/predict", f"{service.url}/v1/models/x:predict"):
        words = (curl, "-s", "--http2", "-H", "content-type: application/json", "-H", "expect:",
                 "--data-binary", f"@{body}", "-w", "\n%{http_code} %{num_connects}\n")  # fmt: skip
        answers = run(*words, url, url).splitlines()
        assert answers[1::2] == ["200 1", "200 0"], "one connection for both"
        assert len(json.loads(answers[0])["predictions"]) == size
