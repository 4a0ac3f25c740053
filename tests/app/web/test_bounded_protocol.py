"""Clients that are slow, silent, or speak no HTTP: each bounded, and nobody else waits for them."""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from app.web.bounded_protocol import SPARE_KEEP_ALIVE_SECONDS
from tests.conftest import Sample, StartService
from tests.support.clients import read_answer
from tests.support.errors import error_of
from tests.support.serving import Service, strict, wait_until

pytestmark = pytest.mark.e2e

RECEIVE_SECONDS = 1.0
SLOW_SECONDS = 4.0
"""The bound for requests that come slowly: a busy machine sends them more slowly still."""
PATIENCE = 20.0
"""Seconds after which a client counts as held for ever."""
IDLE = 1_000
DESCRIPTORS = 2 * IDLE
HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def descriptor_limit() -> Iterator[int]:
    """Let this process and its services have enough descriptors, where that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    limit = max(soft, allowed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def strict_service(descriptor_limit: int, start_shared_service: StartService) -> Service:
    """A service that waits for nobody longer than a second."""
    return start_shared_service(receive_seconds=RECEIVE_SECONDS)


@pytest.fixture
def neighbour(strict_service: Service, sample: Sample) -> Iterator[Callable[[], None]]:
    """Checks that somebody else still gets the right score; once more at the end, when nothing
    may have failed in a way that nobody foresaw.
    """
    written = len(strict_service.log())
    (expected,) = strict_service.predict(sample.rows[:1])

    def check() -> None:
        assert strict_service.predict(sample.rows[:1]) == pytest.approx([expected], abs=1e-6)

    yield check
    check()
    assert "Traceback" not in strict_service.log()[written:]


@contextmanager
def connected(service: Service) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE) as connection:
        yield connection


def request(body: Any, *headers: str, path: str = "/predict") -> bytes:
    """A whole request."""
    content = json.dumps(body).encode()
    more = "".join(f"{header}\r\n" for header in headers)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{more}"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def rest(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    found = b""
    with suppress(ConnectionError):
        while part := connection.recv(65_536):
            found += part
    return found


def drip(connection: socket.socket, piece: Callable[[int], bytes]) -> bytes:
    """Send small pieces every 50 ms until the other side closes; what it had sent."""
    end = time.monotonic() + PATIENCE
    found = b""
    connection.setblocking(False)
    for number in range(1_000_000):
        assert time.monotonic() < end, f"still open after {PATIENCE:g} s"
        try:
            connection.send(piece(number))
            part = connection.recv(65_536)
        except BlockingIOError:
            time.sleep(0.05)
            continue
        except ConnectionError:
            break
        if not part:
            break
        found += part
    return found


def final(answer: bytes) -> bytes:
    """The answer without interim ones before it, by which a service asks who is there."""
    while answer.startswith(b"HTTP/1.1 1"):
        answer = answer.partition(b"\r\n\r\n")[2]
    return answer


def content_of(answer: bytes) -> bytes:
    return final(answer).partition(b"\r\n\r\n")[2]


# Slow ones.


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"", lambda _: b"\r\n"),
        (HEAD, lambda number: b"x-%d: 1\r\n" % number),
        (HEAD[:-2], lambda _: b"a"),
        (b"GET /", lambda _: b"a"),
        (b"GET /live HTTP/1.1\r\nhost: x\r\n", lambda number: b"x-%d: 1\r\n" % number),
    ],
    ids=["empty lines", "headers", "a header", "a path", "another route"],
)
def test_a_dripping_head_is_cut(
    strict_service: Service,
    neighbour: Callable[[], None],
    first: bytes,
    piece: Callable[[int], bytes],
) -> None:
    """Slow-loris: whatever comes bit by bit, the connection ends, without an answer."""
    with connected(strict_service) as connection:
        connection.sendall(first)
        neighbour()
        assert drip(connection, piece) == b""


def test_a_connection_without_a_request_is_closed(
    strict_service: Service, neighbour: Callable[[], None]
) -> None:
    """A client that says nothing has no claim to a descriptor."""
    with connected(strict_service) as connection:
        neighbour()
        assert rest(connection) == b""


def test_a_dripping_head_after_an_answer_is_cut(strict_service: Service, sample: Sample) -> None:
    """A kept connection gives no right to more patience."""
    with connected(strict_service) as connection:
        connection.sendall(request({"instances": sample.rows[:1]}) + HEAD)
        answer = drip(connection, lambda number: b"x-%d: 1\r\n" % number)
    assert answer.count(b"HTTP/1.1") == 1
    assert len(strict(content_of(answer))["predictions"]) == 1


@pytest.mark.parametrize("path", ["/predict", "/rank", "/v1/models/x:predict"])
@pytest.mark.parametrize("framing", ["content-length: 10000", "transfer-encoding: chunked"])
def test_a_dripping_body_is_answered_and_cut(
    strict_service: Service, neighbour: Callable[[], None], path: str, framing: str
) -> None:
    """A body must have come within the bound, by the short cut and by the application's way."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{framing}\r\n\r\n"
    piece = b"1\r\n \r\n" if "chunked" in framing else b" "
    with connected(strict_service) as connection:
        connection.sendall(head.encode())
        neighbour()
        answer = drip(connection, lambda _: piece)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert "did not arrive in 1 seconds" in error_of(content_of(answer))["message"]


def test_a_body_that_nobody_wants_is_cut(strict_service: Service) -> None:
    """A GET with an endless body gets its answer and no more."""
    with connected(strict_service) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n\r\n")
        answer = drip(connection, lambda _: b"x")
    assert strict(content_of(answer)) == {"status": "live"}


@pytest.mark.slow
def test_a_slow_but_whole_request_is_answered(start_service: StartService, sample: Sample) -> None:
    """Within the bound, here for more than half of it, a request may come byte by byte."""
    service = start_service(receive_seconds=SLOW_SECONDS)
    sent = request({"instances": sample.rows[:1]})
    with connected(service) as connection:
        step = max(1, len(sent) // 8)
        pieces = range(0, len(sent), step)
        for start in pieces:
            connection.sendall(sent[start : start + step])
            time.sleep(0.55 * SLOW_SECONDS / len(pieces))
        connection.shutdown(socket.SHUT_WR)
        answer = rest(connection)
    assert final(answer).startswith(b"HTTP/1.1 200 ")


def test_answers_that_nobody_takes_are_dropped(
    strict_service: Service, neighbour: Callable[[], None]
) -> None:
    """A client that asks and never reads is cut, and what it left is freed."""
    many = {"instances": [{"placement": "top"}] * 4_000}
    asked = request(many, path="/v1/models/x:predict") + request(many)
    before = descriptors(strict_service)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", strict_service.port))
        # Until its requests are not read, as all is full of answers, or it is cut. A busy machine
        # may leave some of them unread for a while although there is room.
        connection.settimeout(5.0)
        with suppress(TimeoutError, ConnectionError):
            for _ in range(200):
                connection.sendall(asked)
        neighbour()
        wait_until(lambda: descriptors(strict_service) <= before, "it is dropped", PATIENCE)
    memory = strict_service.resident_bytes()
    assert memory < 2 * 2**30


def descriptors(service: Service) -> int:
    """The number of descriptors that the process has open."""
    return len(os.listdir(f"/proc/{service.process.pid}/fd"))


def test_a_thousand_idle_connections_are_carried_and_closed(
    descriptor_limit: int, strict_service: Service, neighbour: Callable[[], None]
) -> None:
    """They cost descriptors for a while, and others get their scores meanwhile."""
    if descriptor_limit < DESCRIPTORS:
        pytest.skip(f"no more than {descriptor_limit} descriptors are allowed here")
    neighbour()
    before = descriptors(strict_service)
    with ExitStack() as stack:
        idle = [stack.enter_context(connected(strict_service)) for _ in range(IDLE)]
        neighbour()
        for connection in idle[::2]:
            connection.sendall(HEAD)
        neighbour()
        closed = 0
        with selectors.DefaultSelector() as selector:
            for connection in idle:
                selector.register(connection, selectors.EVENT_READ)
            end = time.monotonic() + PATIENCE
            while closed < IDLE and time.monotonic() < end:
                for key, _ in selector.select(0.5):
                    assert rest(key.fileobj) == b""  # type: ignore[arg-type]
                    selector.unregister(key.fileobj)
                    closed += 1
        assert closed == IDLE
    wait_until(lambda: descriptors(strict_service) <= before, "all descriptors are free")


def test_a_kept_connection_is_answered_or_closed(
    start_service: StartService, sample: Sample
) -> None:
    """A request just when the service closes for idleness gets all of an answer, or none of it."""
    service = start_service(keep_alive_seconds=1)
    sent = request({"instances": sample.rows[:1]})
    with ExitStack() as stack:
        kept = [stack.enter_context(connected(service)) for _ in range(60)]
        started = []
        for connection in kept:
            connection.sendall(sent)
            assert read_answer(connection)[0] == 200
            started.append(time.monotonic())
        answered = 0
        for number, connection in enumerate(kept):
            # Most of them close to the moment, the outer ones a second before and after it.
            due = started[number] + 1 + SPARE_KEEP_ALIVE_SECONDS + ((number - 30) / 30) ** 3
            time.sleep(max(0.0, due - time.monotonic()))
            answer = b""
            with suppress(OSError):
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                answer = rest(connection)
            if answer:
                assert len(strict(content_of(answer))["predictions"]) == 1
                answered += 1
    assert answered < 60, "none was closed for being idle"


# What is no HTTP.


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: ten\r\n\r\n",
        b"POST /predict HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"POST /predict HTTP/1.1\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}",
        b"POST /predict HTTP/1.1\r\nno colon\r\n\r\n",
    ],
    ids=repr,
)
def test_what_is_no_http_is_told_so(
    strict_service: Service, neighbour: Callable[[], None], sent: bytes
) -> None:
    """TLS, garbage, two lengths: 400 in the one error shape, and the connection ends."""
    with connected(strict_service) as connection:
        connection.sendall(sent)
        answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/json\r\n" in answer.lower()
    assert error_of(content_of(answer))["code"] == "undecodable"


def test_who_pipelines_and_leaves_leaves_nothing_behind(
    strict_service: Service, neighbour: Callable[[], None]
) -> None:
    """Requests behind one whose answer is under way, and nobody there any more to take any."""
    asked = request({"instances": [{"placement": "top"}] * 2_000}, path="/v1/models/x:predict")
    before = descriptors(strict_service)
    for _ in range(20):
        with connected(strict_service) as connection:
            connection.sendall(asked * 3)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: descriptors(strict_service) <= before, "all are gone", PATIENCE)


def test_garbage_after_a_request_costs_it_nothing(strict_service: Service, sample: Sample) -> None:
    """A request that was whole gets its own answer before the connection ends."""
    with connected(strict_service) as connection:
        connection.sendall(request({"instances": sample.rows[:1]}) + b"\x00garbage\r\n\r\n")
        answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    first = content_of(answer).split(b"HTTP/1.1 ")[0]
    assert len(strict(first)["predictions"]) == 1


def test_no_other_protocol_is_taken_up(strict_service: Service) -> None:
    """An upgrade to WebSocket or HTTP/2 is left unanswered: the request is one of HTTP/1.1."""
    for protocol in ("websocket", "h2c"):
        headers = (
            f"GET /live HTTP/1.1\r\nhost: x\r\nupgrade: {protocol}\r\nconnection: upgrade\r\n"
            "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
        )
        with connected(strict_service) as connection:
            connection.sendall(headers.encode())
            assert read_answer(connection)[0] == 200


def test_every_request_line_gets_an_answer(
    strict_service: Service, neighbour: Callable[[], None]
) -> None:
    """OPTIONS *, a whole URL, an escaped path, a query: answered, never a 5xx."""
    for line, status in (
        ("OPTIONS * HTTP/1.1", (400, 404, 405)),
        ("GET http://example.test/live HTTP/1.1", (200,)),
        ("GET /live?x=%ff HTTP/1.1", (200,)),
        ("GET /l%69ve HTTP/1.1", (200,)),
        ("GET /%ff%00 HTTP/1.1", (404,)),
        ("GET //live HTTP/1.1", (404,)),
        ("POST /predict?x=1 HTTP/1.1", (400,)),
        ("HEAD /predict HTTP/1.1", (405,)),
    ):
        with connected(strict_service) as connection:
            connection.sendall(f"{line}\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            answer = rest(connection)
        assert int(answer.split(b" ")[1]) in status, (line, answer)


# The end.


def test_no_client_can_hold_the_end(start_service: StartService, sample: Sample) -> None:
    """Idle, dripping and unread connections: SIGTERM ends the service with 0 within its bound."""
    service = start_service(drain_seconds=2, receive_seconds=60)
    many = request({"instances": [{"placement": "top"}] * 4_000})
    with ExitStack() as stack:
        silent, dripping, unread = (stack.enter_context(connected(service)) for _ in range(3))
        kept = stack.enter_context(connected(service))
        kept.sendall(request({"instances": sample.rows[:1]}))
        assert read_answer(kept)[0] == 200
        dripping.sendall(HEAD)
        unread.settimeout(0.2)
        with suppress(TimeoutError):
            for _ in range(200):
                unread.sendall(many)
        start = time.monotonic()
        service.terminate()
        assert rest(silent) == rest(kept) == b""
        assert service.process.wait(PATIENCE) == 0
        assert time.monotonic() - start < PATIENCE
    assert "Traceback" not in service.log()
