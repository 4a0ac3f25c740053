"""A client that has said all and ends its sending side is answered; one that has left is not."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from tests.conftest import Sample, StartService
from tests.drills.faults.slow_service import SLOW, VARIABLE
from tests.support.clients import connected, framed, read_all, read_answer, run
from tests.support.held_service import Held
from tests.support.programs import program
from tests.support.serving import Service, wait_until

pytestmark = pytest.mark.e2e
PATHS = ["/predict", "/v1/models/x:predict"]
SLOW_MS = 150


@pytest.fixture(scope="module")
def slow_service(start_shared_service: StartService) -> Service:
    """Runs take longer than it takes to ask whether a client is still there."""
    return start_shared_service(None, {VARIABLE: str(SLOW_MS)}, SLOW, deadline_ms=20_000)


@pytest.fixture(scope="module")
def held(start_shared_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Held:
    """A service whose runs take as long as a test wants."""
    return Held(start_shared_service, tmp_path_factory.mktemp("held"))


def asked(path: str, sample: Sample, *headers: str, version: str = "1.1") -> bytes:
    body = {"instances": sample.rows[:1]}
    return b"".join(framed(path, body, *headers, version=version))


CLIENTS = {
    "socat": ["-t", "20", "-", "TCP:127.0.0.1:{port}"],
    "ncat": ["127.0.0.1", "{port}"],
    "nc": ["-N", "127.0.0.1", "{port}"],
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("path", PATHS)
def test_what_a_pipe_sends_is_answered(
    service: Service, slow_service: Service, sample: Sample, client: str, path: str
) -> None:
    """``echo … | nc -N``: one answer, be it quick or slow."""
    words = [program(client), *CLIENTS[client]]
    if client == "nc" and not Path(words[0]).resolve().name.endswith("openbsd"):
        pytest.skip("this nc is not OpenBSD's, which has -N")
    for each in (service, slow_service):
        command = [word.format(port=each.port) for word in words]
        answer = run(*command, given=asked(path, sample)).removeprefix(
            "HTTP/1.1 100 Continue\r\n\r\n"
        )
        assert answer.startswith("HTTP/1.1 200 ")
        assert answer.count("predictions") == 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_slow_answer_comes_after_the_end_of_sending(
    slow_service: Service, sample: Sample, path: str, version: str
) -> None:
    """A client of HTTP/1.1 may see an interim answer before; one of HTTP/1.0 never does."""
    with connected(slow_service.port) as connection:
        connection.sendall(asked(path, sample, version=version))
        connection.shutdown(socket.SHUT_WR)
        if version == "1.0":
            assert read_all(connection).startswith(b"HTTP/1.1 200 ")
        else:
            assert read_answer(connection)[0] == 200
            assert read_all(connection) == b""


def test_all_that_was_whole_is_answered(service: Service, sample: Sample) -> None:
    """Pipelined requests, the last of which is cut short: those before it have their answers."""
    with connected(service.port) as connection:
        whole = asked("/predict", sample)
        connection.sendall(2 * whole + whole[: len(whole) // 2])
        connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
    assert answer.count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize("cut", [10, 60, -1])
def test_half_a_request_is_no_request(service: Service, sample: Sample, cut: int) -> None:
    """In its head or in its body: the connection ends without an answer."""
    with connected(service.port) as connection:
        connection.sendall(asked("/predict", sample)[:cut])
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b""


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_has_left_is_noticed(
    held: Held, sample: Sample, path: str, reset: bool
) -> None:
    """Its socket is closed, not half of it: it counts as gone, and its connection is freed."""
    service, name = held.service, 'ctr_requests_total{outcome="gone",route="predict"}'
    before = service.metrics()[name]
    with connected(service.port) as filler, connected(service.port) as leaving:
        held.hold()
        filler.sendall(asked("/predict", sample))
        held.wait_held()
        leaving.sendall(asked(path, sample))
        wait_until(lambda: service.metrics()["ctr_queued_rows"] == 1, "it waits")
        there = held.descriptors()
        if reset:
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leaving.close()
        wait_until(lambda: held.descriptors() < there, "its leaving is noticed")
        held.release()
        assert read_answer(filler)[0] == 200
        wait_until(lambda: service.metrics()[name] == before + 1, "it is counted")
