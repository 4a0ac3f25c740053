"""A refusal that is given before the body has come reaches its caller.

A connection that is closed with unread bytes is reset, and the reset may overtake the answer. So
what a refused caller still sends is read and dropped, up to a bound.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.web.bounded_protocol import DISCARDED_BYTES
from app.web.lingering import LINGER_BYTES
from tests.conftest import Sample, StartService
from tests.support.clients import connected, framed, head, read_all, read_answer, run
from tests.support.errors import error_of
from tests.support.programs import program
from tests.support.serving import Service, free_port, wait_until

pytestmark = pytest.mark.e2e
CALLERS = 20
MIB = 2**20
TYPE = {"content-type": "application/json"}
Send = Callable[[str, bytes, dict[str, str]], int]
SendAll = Callable[[str, bytes, dict[str, str], int], list[int]]
"""Sends a number of equal requests, several at a time; returns the statuses."""

NODE_FETCH = """
const [url, size, headers, count] = process.argv.slice(1);
const body = Buffer.alloc(+size, " ");
const ask = () => fetch(url, {method: "POST", body, headers: JSON.parse(headers)}).then(
  async answer => { await answer.text(); return answer.status; },
  error => error.cause?.code ?? error.message);
Promise.all(Array.from({length: +count}, ask)).then(all => console.log(JSON.stringify(all)));
"""
NODE_HTTP = """
const [url, size, headers, count] = process.argv.slice(1);
const body = Buffer.alloc(+size, " ");
const ask = () => new Promise(told => {
  const asked = require("http").request(
    url, {method: "POST", headers: JSON.parse(headers), agent: false},
    answer => { answer.resume(); answer.on("end", () => told(answer.statusCode)); });
  asked.on("error", error => told(error.code));
  asked.setHeader("content-length", size);
  asked.end(body);
});
Promise.all(Array.from({length: +count}, ask)).then(all => console.log(JSON.stringify(all)));
"""


def by_urllib(url: str, body: bytes, headers: dict[str, str]) -> int:
    asked = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.read()
        return error.code


def by_http_client(url: str, body: bytes, headers: dict[str, str]) -> int:
    address = httpx.URL(url)
    connection = http.client.HTTPConnection(address.host, address.port, timeout=60)
    connection.request("POST", address.path, body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def by_httpx(url: str, body: bytes, headers: dict[str, str]) -> int:
    with httpx.Client(trust_env=False, verify=False, timeout=60) as client:
        return client.post(url, content=body, headers=headers).status_code


def by_requests(url: str, body: bytes, headers: dict[str, str]) -> int:
    if importlib.util.find_spec("requests") is None:
        pytest.skip("requests is not installed")
    import requests

    with requests.Session() as session:
        session.trust_env = False
        return int(session.post(url, data=body, headers=headers, timeout=60).status_code)


def by_curl(url: str, body: bytes, headers: dict[str, str]) -> int:
    lines = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    words = [program("curl"), "-s", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*"]
    return int(run(*words, *lines, "-H", "expect:", "--data-binary", "@-", url, given=body))


def four_at_a_time(send: Send) -> SendAll:
    def send_all(url: str, body: bytes, headers: dict[str, str], count: int) -> list[int]:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda _: send(url, body, headers), range(count)))

    return send_all


def by_node(script: str) -> SendAll:
    """All at once, each over a connection of its own: a process of Node costs as much as ten."""

    def send_all(url: str, body: bytes, headers: dict[str, str], count: int) -> list[int]:
        asked = (url, str(len(body)), json.dumps(headers), str(count))
        return list(json.loads(run(program("node"), "-e", script, *asked)))

    return send_all


CLIENTS: dict[str, SendAll] = {
    "urllib": four_at_a_time(by_urllib),
    "http.client": four_at_a_time(by_http_client),
    "httpx": four_at_a_time(by_httpx),
    "requests": four_at_a_time(by_requests),
    "curl": four_at_a_time(by_curl),
    "node fetch": by_node(NODE_FETCH),
    "node http": by_node(NODE_HTTP),
}
REFUSALS: dict[str, tuple[str, int, dict[str, str], int]] = {
    "413": ("/predict", 9 * MIB, TYPE, 413),
    "413 of a list": ("/rank", 9 * MIB, TYPE, 413),
    "413 by the application's way": ("/v1/models/x:predict", 9 * MIB, TYPE, 413),
    "413 too long to be kept": ("/predict", 40 * MIB, TYPE, 413),
    "415": ("/predict", MIB, {"content-type": "text/plain"}, 415),
    "422": ("/rank", MIB, {**TYPE, "x-request-timeout-ms": "0"}, 422),
    "404": ("/nothing", MIB, TYPE, 404),
    "405": ("/live", MIB, TYPE, 405),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_every_caller_sees_the_status(service: Service, client: str, refusal: str) -> None:
    """Twenty of twenty, four at a time; of large bodies and for Node five of five."""
    path, size, headers, expected = REFUSALS[refusal]
    body = b" " * size
    count = 5 if size > DISCARDED_BYTES or client.startswith("node") else CALLERS
    found = CLIENTS[client](service.url + path, body, headers, count)
    assert found == [expected] * count


@pytest.mark.parametrize("chunk", [0, 60_000], ids=["length", "chunked"])
@pytest.mark.parametrize("path", ["/predict", "/v1/models/x:predict", "/nothing"])
def test_the_connection_is_kept(service: Service, sample: Sample, path: str, chunk: int) -> None:
    """A refused body of some MiB is read to its end, and the next request is answered."""
    with connected(service.port) as connection:
        for _ in range(2):
            start, content = framed(path, b" " * 9 * MIB, chunk=chunk)
            connection.sendall(start + content)
            status, headers, _ = read_answer(connection)
            assert status == (404 if path == "/nothing" else 413)
            assert headers.get("connection") != "close"
            connection.sendall(b"".join(framed("/predict", {"instances": sample.rows[:1]})))
            assert read_answer(connection)[0] == 200


def test_an_endless_body_is_dropped_up_to_a_bound(service: Service) -> None:
    """The answer is there; then the connection ends, and no more than the bound is taken."""
    before = service.resident_bytes()
    with connected(service.port) as connection:
        connection.sendall(head("/predict", "transfer-encoding: chunked"))
        piece = b"100000\r\n" + b" " * MIB + b"\r\n"
        sent = 0
        try:
            while sent < 10 * (DISCARDED_BYTES + LINGER_BYTES):
                connection.sendall(piece)
                sent += len(piece)
        except ConnectionError:
            pass
        assert sent <= 2 * (DISCARDED_BYTES + LINGER_BYTES)
    assert service.resident_bytes() - before < 64 * MIB


def test_a_client_that_keeps_sending_is_let_go_after_a_while(start_service: StartService) -> None:
    """Its answer says that the connection ends, which it does; its descriptor is free later."""
    service = start_service(receive_seconds=1)
    with connected(service.port) as connection:
        connection.sendall(head("/predict", f"content-length: {100 * MIB}") + b" ")
        answer = connection.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer
        assert connection.recv(1) == b"", "the sending side of the service has ended"

        def cut() -> bool:
            try:
                connection.sendall(b" ")
            except ConnectionError:
                return True
            return False

        wait_until(cut, "the connection is closed")


def test_a_refused_head_is_seen(service: Service) -> None:
    """431 and 400 reach a client that goes on sending."""
    for sent, status in (
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 3 * MIB, 431),
        (b"\x16\x03" * MIB, 400),
    ):
        for _ in range(CALLERS):
            with connected(service.port) as connection:
                try:
                    connection.sendall(sent)
                    connection.shutdown(socket.SHUT_WR)
                except ConnectionError as error:
                    raise AssertionError("reset while it sent") from error
                answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 %d " % status)
            assert error_of(answer.split(b"\r\n\r\n", 1)[1])


def test_the_admin_port_refuses_so_too(start_service: StartService, tmp_path: Path) -> None:
    """A body that nobody asked for does not hide that the key is missing."""
    keys = tmp_path / "keys"
    keys.write_text("0" * 64 + "\n")
    port = free_port()
    start_service(admin_port=port, admin_key_file=keys)
    url = f"http://127.0.0.1:{port}/admin/bundles/x/activate"
    assert [by_urllib(url, b" " * MIB, TYPE) for _ in range(CALLERS)] == [401] * CALLERS
