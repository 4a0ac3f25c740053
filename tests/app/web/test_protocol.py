"""A request takes the short cut or the way through the application, and is answered the same."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from tests.conftest import Sample, StartService
from tests.support.inside import serving, until
from tests.support.serving import Service, logits, strict, wait_until

Row = dict[str, Any]
THROUGH_THE_APPLICATION = "?way=2"
"""Only the bare path takes the short cut."""


def exchange(service: Service, *parts: bytes) -> bytes:
    """Send the parts one by one, then end the sending, and return all that comes."""
    with socket.create_connection(("127.0.0.1", service.port), 30) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


def request(body: bytes, *headers: str, path: str = "/predict", version: str = "1.1") -> bytes:
    """A request's bytes."""
    lines = [f"POST {path} HTTP/{version}", "host: test", "content-type: application/json",
             f"content-length: {len(body)}", *headers]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def bodies_of(answer: bytes) -> list[Any]:
    """The JSON bodies of answers that came one after the other."""
    found = []
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        found.append(strict(rest[:length]))
        answer = rest[length:]
    return found


BODIES: list[tuple[str, bytes]] = [
    ("/predict", b'{"instances": []}'),
    ("/predict", b'{"instances": [{"unknown": 3}]}'),
    ("/predict", b'{"instances": [{"price": "dear"}]}'),
    ("/predict", b'{"instances": [{"price": NaN}]}'),
    ("/predict", b'{"instances": 3}'),
    ("/predict", b"\xff\xfe"),
    ("/predict", b""),
    ("/rank", b'{"context": {}, "candidates": [{"features": {}, "id": "a"}, {"features": {}}]}'),
    ("/rank", b'{"context": {}, "candidates": {"features": {}, "id": []}, "top_k": 2}'),
    ("/rank", b'{"context": {}, "candidates": {"features": {"price": [1, "x", null]}}}'),
    ("/rank", b'{"context": {}, "candidates": [], "top_k": 0}'),
]


@pytest.mark.parametrize(("path", "body"), BODIES, ids=repr)
def test_answers_are_the_same(service: Service, path: str, body: bytes) -> None:
    """Status, headers that matter and body: right or wrong, both ways say the same."""
    short, long = (service.post(path + way, body) for way in ("", THROUGH_THE_APPLICATION))
    assert short.status_code == long.status_code
    assert short.content == long.content
    for name in ("content-type", "content-length"):
        assert short.headers[name] == long.headers[name]
    assert short.headers["x-request-id"] != long.headers["x-request-id"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_type": "text/plain"}, 415),
        ({"content_encoding": "gzip"}, 415),
        ({"x_request_timeout_ms": "soon"}, 422),
        ({"x_request_id": "mine"}, 200),
    ],
    ids=repr,
)
def test_headers_mean_the_same(service: Service, headers: dict[str, str], status: int) -> None:
    """A request refused for its headers is refused both ways; a caller's id comes back."""
    for way in ("", THROUGH_THE_APPLICATION):
        answer = service.client.post(
            "/predict" + way,
            content=b'{"instances": []}',
            headers={n.replace("_", "-"): v for n, v in headers.items()},
        )
        assert answer.status_code == status
        if "x_request_id" in headers:
            assert answer.headers["x-request-id"] == "mine"


def test_scores_are_the_same(service: Service, sample: Sample) -> None:
    """300 rows have the same scores both ways."""
    body = json.dumps({"instances": sample.rows[:300]}).encode()
    short, long = (service.post("/predict" + w, body) for w in ("", THROUGH_THE_APPLICATION))
    first, second = (logits(a.json()["predictions"]) for a in (short, long))
    assert first == pytest.approx(second, abs=1e-5)


def test_pipelined_requests_are_answered_in_order(service: Service, sample: Sample) -> None:
    """Requests sent without waiting get their own answers, in the order in which they came."""
    sizes = [3, 1, 0, 2, 40]
    wanted = [json.dumps({"instances": sample.rows[:size]}).encode() for size in sizes]
    last = request(wanted[-1], "connection: close")
    answer = exchange(service, b"".join([*(request(body) for body in wanted[:-1]), last]))
    assert [len(body["predictions"]) for body in bodies_of(answer)] == sizes


def test_a_body_may_come_in_pieces(service: Service, sample: Sample) -> None:
    """Byte by byte, with and without a length, it is the same body."""
    body = json.dumps({"instances": sample.rows[:2]}).encode()
    whole = request(body, "connection: close")
    (expected,) = bodies_of(exchange(service, whole))
    (found,) = bodies_of(exchange(service, *(whole[i : i + 1] for i in range(len(whole)))))
    assert found == expected
    chunked = (
        b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    )
    pieces = [b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:7], body[7:100], body[100:])]
    (found,) = bodies_of(exchange(service, chunked, *pieces, b"0\r\n\r\n"))
    assert found == expected


def test_a_closing_client_is_closed(service: Service) -> None:
    """``Connection: close`` and HTTP/1.0 end the connection, and say so."""
    body = b'{"instances": []}'
    for asked in (request(body, "connection: close"), request(body, version="1.0")):
        head = exchange(service, asked).partition(b"\r\n\r\n")[0].lower()
        assert head.startswith(b"http/1.1 200")
        assert b"connection: close" in head


def test_expect_continue_is_told_to_go_on(service: Service) -> None:
    """A client that waits for leave to send its body gets it."""
    body = b'{"instances": []}'
    asked = request(body, "expect: 100-continue", "connection: close")
    answer = exchange(service, asked)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")


def test_a_refused_request_leaves_the_connection_usable(service: Service) -> None:
    """A short body of a refused request is dropped, and the next request is answered."""
    refused = request(b'{"instances": []}', "x-request-timeout-ms: 0")
    answer = exchange(service, refused, request(b'{"instances": []}', "connection: close"))
    first, second = bodies_of(answer)
    assert first["error"]["code"] == "invalid"
    assert second["predictions"] == []


def test_int8_serves_where_it_is_asked_for(start_service: StartService, sample: Sample) -> None:
    """``precision=int8`` serves the int8 graph, and log, /ready, /model and metrics say so."""
    service = start_service(precision="int8")
    exact = start_service(precision="float32")
    rows = sample.rows[:200]
    quick, slow = (logits(s.predict(rows)) for s in (service, exact))
    assert 0 < max(abs(a - b) for a, b in zip(quick, slow, strict=True)) < 0.5
    alone = [logits(service.predict([row]))[0] for row in rows[:20]]
    assert alone == pytest.approx(quick[:20], abs=1e-5)
    for path in ("/ready", "/model"):
        assert strict(service.client.get(path).content)["precision"] == "int8"
    assert any("in int8 on CPU" in event["message"] for event in service.events())
    assert any('precision="int8"' in name for name in service.metrics())


def test_a_client_that_leaves_within_its_body_is_released(service: Service) -> None:
    """A request whose body never ends is counted as gone when its connection ends."""
    name = 'ctr_requests_total{outcome="gone",route="predict"}'
    before = service.metrics().get(name, 0)
    with socket.create_connection(("127.0.0.1", service.port), 30) as client:
        client.sendall(request(b" " * 1000)[:-500])
    wait_until(lambda: service.metrics().get(name, 0) == before + 1, "the request is gone", 30)


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_client_that_reads_nothing_does_not_fill_the_memory(tiny_bundle: Path) -> None:
    """Its requests wait: beside an answer or two nothing is kept for it."""
    asked = request(b'{"instances":[%b]}' % b",".join([b'{"placement":"top"}'] * 2_000))
    async with serving(tiny_bundle, deadline_ms=60_000) as (server, port):
        loop = asyncio.get_running_loop()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.setblocking(False)
            await loop.sock_connect(connection, ("127.0.0.1", port))
            sent = 0

            async def send() -> None:
                nonlocal sent
                for _ in range(500):
                    await loop.sock_sendall(connection, asked)
                    sent += 1

            def held() -> int:
                connections = server.server_state.connections
                return sum(each.transport.get_write_buffer_size() for each in connections)

            sending = asyncio.create_task(send())
            await until(lambda: held() > 0, "an answer waits for the client")
            before = -1
            while before != sent and not sending.done():
                before = sent
                await asyncio.wait([sending], timeout=3)
            assert held() < 500_000
            sending.cancel()
            await asyncio.wait([sending])


@pytest.mark.anyio
async def test_an_answer_waits_until_those_before_it_are_taken(tiny_bundle: Path) -> None:
    """A client that asks one by one and reads nothing has two or three answers kept for it."""
    asked = request(b'{"instances":[%b]}' % b",".join([b'{"placement":"top"}'] * 2_000))
    async with serving(tiny_bundle, deadline_ms=60_000) as (server, port):
        loop = asyncio.get_running_loop()
        state = server.server_state
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", port))
            await until(lambda: bool(state.connections), "it is connected")
            connection = cast(Any, next(iter(state.connections)))
            ours = connection.transport.get_extra_info("socket")
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)

            def waits() -> bool:
                """Return whether the newest request has taken the way that waits for its client."""
                return isinstance(connection.cycle, RequestResponseCycle)

            for number in range(1, 41):
                await loop.sock_sendall(client, asked)
                await until(lambda: waits() or state.total_requests == number, "it is answered")  # noqa: B023
                if waits():
                    break
            assert connection.transport.get_write_buffer_size() < 300_000
            answer = b""
            async with asyncio.timeout(60):
                while answer.count(b"HTTP/1.1 200 OK") < number:
                    answer += await loop.sock_recv(client, 65_536)
        assert number < 40
