"""The service's server: its end, in which no request that a client could still send is lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.conftest import Sample, StartService
from tests.drills.faults.drive import Request, run
from tests.drills.faults.proxies import LOST, keep_asking
from tests.support.clients import connected, framed, head, read_all, read_answer
from tests.support.patient_service import PATIENT_APP
from tests.support.serving import Service, wait_until

pytestmark = pytest.mark.e2e
PATHS = ["/predict", "/v1/models/x:predict", "/live"]
LONG = 30


def asked(path: str, sample: Sample) -> bytes:
    """A whole request."""
    if path == "/live":
        return head(path, method="GET")
    return b"".join(framed(path, {"instances": sample.rows[:1]}))


def draining(service: Service, workers: int = 1) -> bool:
    """Tell whether all workers say so, as far as connections of their own meet them."""
    close = {"connection": "close"}
    return all(
        "the service is draining" in service.client.get("/ready", headers=close).text
        for _ in range(1 if workers == 1 else 12 * workers)
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_lame_duck_answers_and_says_that_it_ends(
    start_service: StartService, sample: Sample, workers: int
) -> None:
    """/ready is 503 at once; new and kept connections are still answered, each for the last time;
    then the service ends with 0."""
    service = start_service(lame_duck_seconds=LONG, workers=workers)
    with connected(service.port) as kept, connected(service.port) as other:
        for connection in (kept, other):
            connection.sendall(asked("/predict", sample))
            assert read_answer(connection)[1]["keep-alive"] == "timeout=75"
        service.terminate()
        wait_until(lambda: draining(service, workers), "it says that it ends")
        for path in PATHS:
            with connected(service.port) as new:
                new.sendall(asked(path, sample))
                status, headers, _ = read_answer(new)
                assert (status, headers["connection"]) == (200, "close")
                assert "keep-alive" not in headers
                assert read_all(new) == b""
        for connection in (kept, other):
            connection.sendall(asked("/predict", sample))
            status, headers, _ = read_answer(connection)
            assert (status, headers["connection"]) == (200, "close")
    assert service.process.poll() is None, "the time is not over"
    service.terminate()
    assert service.stop() == 0


def test_the_time_of_a_lame_duck_ends(start_service: StartService) -> None:
    """After it the service drains by itself."""
    service = start_service(lame_duck_seconds=0.5)
    service.terminate()
    assert service.process.wait(20) == 0


def test_a_second_signal_ends_a_lame_duck(start_service: StartService) -> None:
    """An operator who does not want to wait need not."""
    service = start_service(lame_duck_seconds=1_000)
    service.terminate()
    wait_until(lambda: draining(service), "it says that it ends")
    start = time.monotonic()
    service.terminate()
    assert service.process.wait(20) == 0
    assert time.monotonic() - start < 20


def test_a_request_on_an_open_connection_is_answered_at_the_end(
    start_service: StartService, sample: Sample
) -> None:
    """Without a lame duck too: what comes within the grace is answered, and told the end."""
    service = start_service(program=PATIENT_APP, drain_seconds=20)
    with ExitStack() as stack:
        idle, *kept = (stack.enter_context(connected(service.port)) for _ in range(len(PATHS) + 1))
        for connection in (idle, *kept):
            connection.sendall(asked("/predict", sample))
            read_answer(connection)
        service.terminate()
        wait_until(lambda: '"Shutting down"' in service.log(), "it drains")
        for connection, path in zip(kept, PATHS, strict=True):
            connection.sendall(asked(path, sample))
            status, headers, _ = read_answer(connection)
            assert (status, headers["connection"]) == (200, "close")
            assert read_all(connection) == b""
        assert read_all(idle) == b"", "after the grace it is closed"
        assert service.process.wait(60) == 0


@pytest.mark.parametrize("lame_duck_seconds", [0, 0.5])
def test_clients_that_ask_again_at_once_lose_nothing(
    start_service: StartService, sample: Sample, lame_duck_seconds: float
) -> None:
    """Twenty busy connections, used again as soon as their answer is there."""
    service = start_service(lame_duck_seconds=lame_duck_seconds)
    request = Request("/predict", asked("/predict", sample).split(b"\r\n\r\n", 1)[1])

    async def scene() -> Counter[str]:
        seen: Counter[str] = Counter()
        end = asyncio.Event()
        callers = [
            asyncio.create_task(keep_asking([service.port], request, end, seen)) for _ in range(20)
        ]
        await asyncio.sleep(0.5)
        service.terminate()
        await asyncio.to_thread(service.process.wait, 30)
        end.set()
        await asyncio.gather(*callers)
        return seen

    seen = run(scene())
    assert seen[LOST] == 0, seen
    assert set(seen) - {LOST} == {"200"}, seen
