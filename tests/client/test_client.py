"""The client against a running service: both forms give its answers and its errors."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import app.errors
import ctr_client
from app.errors import ServiceError
from ctr_client import AsyncClient, Client
from ctr_client import errors as client_errors
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, free_port

pytestmark = pytest.mark.e2e
Use = Callable[[Any], Any]
SECONDS = 60.0


class Awaited:
    """The asynchronous client with the synchronous one's methods, on a loop of its own."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *values, **named: self._runner.run(method(*values, **named))

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *ended: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(params=[Client, Awaited], ids=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Any:
    """Either client."""
    return request.param


def test_answers_are_values_with_types(make: Any, service: Service, sample: Sample) -> None:
    """Scores, rankings of rows and columns with ids, the model, readiness."""
    rows = sample.rows[:9]
    context, shown = context_of(rows[0]), [candidate_of(row) for row in rows]
    with make(service.url, timeout=SECONDS) as ctr:
        predicted = ctr.predict(rows)
        assert predicted.scores == service.predict(rows)
        ranked = ctr.rank(context, shown, ids=[*"abcdefghi"], top_k=3)
        columns = {name: [each.get(name) for each in shown] for name in ("item_id", "price")}
        by_column = ctr.rank_columns(context, columns, ids=[*range(9)], partial=True)
        model, ready = ctr.model(), ctr.ready()
    wanted = service.rank(context=context, candidates=[{"features": each} for each in shown])
    assert [place.index for place in ranked.places] == [each["index"] for each in wanted[:3]]
    assert [place.id for place in ranked.places] == ["abcdefghi"[p.index] for p in ranked.places]
    assert sorted(place.id for place in by_column.places) == [*range(9)]
    assert {predicted.version, ranked.version, ready["version"]} == {model.version}
    assert {"user_id", "tags"} <= {field["name"] for field in model.fields}
    assert (predicted.degraded, ranked.unknown, by_column.scored) == ((), None, None)


@pytest.mark.parametrize(
    ("call", "error", "shown"),
    [
        (lambda ctr: ctr.predict([{"item_id": 1.5}]), "Invalid", "instances[0].item_id"),
        (lambda ctr: ctr.predict([{}] * 6_000), "TooLarge", "more than 5000 instances"),
        (lambda ctr: ctr.predict([], request_id="x" * 40_000), "HeadTooLarge", "431"),
    ],
)
def test_refusals_are_the_errors_of_the_table(
    make: Any, service: Service, call: Use, error: str, shown: str
) -> None:
    """Status, code, paths and the request's id are those of the answer; nothing is retried."""
    with (
        make(service.url, timeout=SECONDS) as ctr,
        pytest.raises(getattr(ctr_client, error)) as caught,
    ):
        call(ctr)
    assert shown in str(caught.value)
    assert caught.value.status in (413, 422, 431)


def test_numbers_that_json_lacks_are_refused_before_they_are_sent(make: Any) -> None:
    """NaN would become null in other clients, and mean something else."""
    with make("http://127.0.0.1:1") as ctr, pytest.raises(ValueError, match="JSON compliant"):
        ctr.predict([{"price": float("nan")}])


def test_every_error_of_the_service_has_a_class() -> None:
    """Those of the admin port, pages and events aside, status and code agree."""
    codes = {
        each.code: each.status
        for each in vars(app.errors).values()
        if isinstance(each, type) and issubclass(each, ServiceError) and each is not ServiceError
    }
    for own in ("refused", "store_unavailable", "wrong_origin", "events_unwritten"):
        codes.pop(own, None)
    known = {code: kind.status_of_class for code, kind in client_errors.BY_CODE.items()}
    missing = {code: status for code, status in codes.items() if known.get(code) != status}
    assert not missing
    told = client_errors.refusal(418, b'{"error": {"code": "tea", "message": "m"}}', None, None)
    assert type(told) is client_errors.ServiceError
    assert (told.code, told.status) == ("tea", 418)


def test_the_deadline_is_the_services_too(make: Any, sample: Sample) -> None:
    """The service is told nine tenths of what is left, so that its own answer still comes."""
    late = answer(504, {"error": {"code": "deadline_passed", "message": "m"}})
    with scripted(late) as server, make(server.url, timeout=30) as ctr:
        with pytest.raises(ctr_client.DeadlinePassed):
            ctr.predict([{}], within=10, request_id="mine")
        [request] = server.requests
    found = re.search(rb"x-request-timeout-ms: ([0-9]+)", request)
    assert found
    assert 8_000 < int(found[1]) <= 9_000
    assert b"x-request-id: mine" in request


def _request(connection: socket.socket) -> bytes | None:
    """Read one request; None where the client has closed."""
    data = b""
    while True:
        head, mark, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: ([0-9]+)", head, re.IGNORECASE)
        if mark and len(body) >= (int(length[1]) if length else 0):
            return data
        more = connection.recv(65_536)
        if not more:
            return None
        data += more


class Scripted:
    """A server that answers each request with the next of some bytes, and counts."""

    def __init__(self, answers: Sequence[bytes | None], port: int = 0) -> None:
        self._answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        # A client that gives up may reset its connection.
        with connection, suppress(ConnectionError):
            while (data := _request(connection)) is not None:
                self.requests.append(data)
                answer = self._answers.pop(0) if self._answers else None
                if answer is None:
                    return
                connection.sendall(answer)

    def close(self) -> None:
        """Accept no further connection."""
        self._socket.close()


def answer(status: int, body: Any, **headers: Any) -> bytes:
    """Return an answer's bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


@contextmanager
def scripted(*answers: bytes | None) -> Iterator[Scripted]:
    """A server of scripted answers."""
    server = Scripted(answers)
    try:
        yield server
    finally:
        server.close()


FULL = {"error": {"code": "overloaded", "message": "the queue is full"}}
SCORES = {"predictions": [0.5], "version": "v"}


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_with_retry_after_is_tried_again(make: Any, status: int) -> None:
    """After the seconds that the service names, within the call's time."""
    code = {"error": {"code": "vocabulary_unavailable", "message": "m"}}
    refused = answer(status, FULL if status == 429 else code, retry_after=1)
    with scripted(refused, answer(200, SCORES)) as server, make(server.url, timeout=30) as ctr:
        begun = time.monotonic()
        assert ctr.predict([{}]).scores == [0.5]
        assert time.monotonic() - begun >= 1
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("answers", "error", "requests", "options"),
    [
        ([answer(503, {"error": {"code": "not_ready", "message": "m"}})], "NotReady", 1, {}),
        ([answer(429, FULL, retry_after=60)], "Overloaded", 1, {}),
        ([answer(429, FULL, retry_after=0)] * 9, "Overloaded", 3, {}),
        ([answer(429, FULL, retry_after=0)] * 9, "Overloaded", 1, {"retries": 0}),
        ([answer(500, {"error": {"code": "internal", "message": "m"}})], "ServiceError", 1, {}),
        ([None], "Lost", 1, {}),
        ([answer(502, b"<html>")], "AnswerError", 1, {}),
        ([answer(200, b"[]")], "AnswerError", 1, {}),
        ([answer(200, {"predictions": 7, "version": "v"})], "AnswerError", 1, {}),
        ([b"HTTP/1.1 200 x\r\ncontent-length: 9\r\n\r\n{"], "TimedOut", 1, {"timeout": 5.0}),
    ],
)  # fmt: skip
def test_what_may_have_been_done_is_not_repeated(
    make: Any, answers: list[bytes | None], error: str, requests: int, options: dict[str, Any]
) -> None:
    """Without Retry-After, beyond the time, too often, after it was sent: the error stands."""
    with scripted(*answers) as server, make(server.url, **{"timeout": 30, **options}) as ctr:
        with pytest.raises(getattr(ctr_client, error)):
            ctr.predict([{}])
        assert len(server.requests) == requests


def test_a_connection_that_never_sent_is_tried_again(make: Any) -> None:
    """A service that begins to listen meanwhile gets the request; nobody there is an error."""
    port = free_port()
    nobody = make(f"http://127.0.0.1:{port}", timeout=20, retries=3)
    with nobody as ctr, pytest.raises(ctr_client.ConnectFailed):
        ctr.predict([{}])
    with make(f"http://127.0.0.1:{port}", timeout=60, retries=9) as ctr:
        answers = [answer(200, SCORES)]
        late = threading.Timer(0.01, lambda: started.append(Scripted(answers, port)))
        started: list[Scripted] = []
        late.start()
        assert ctr.predict([{}]).scores == [0.5]
        late.join()
        started[0].close()
    # 192.0.2.0/24 is for documentation: nothing answers there, and the time ends the attempt.
    begun = time.monotonic()
    with make("http://192.0.2.1:9", timeout=0.3) as ctr, pytest.raises(ctr_client.ClientError):
        ctr.predict([{}])
    assert time.monotonic() - begun < 20


def test_retries_are_a_tenth_of_the_calls(make: Any) -> None:
    """A service that refuses everything gets little more than one request for each call."""
    refusals = [answer(429, FULL, retry_after=0)] * 200
    with scripted(*refusals) as server, make(server.url, timeout=20) as ctr:
        for _ in range(60):
            with pytest.raises(ctr_client.Overloaded):
                ctr.predict([{}])
        assert 60 < len(server.requests) <= 60 + 10 + 60 // 10


def test_connections_are_kept_and_bounded() -> None:
    """Calls of many threads share as many connections as the pool may have."""
    right = answer(200, SCORES)
    with (
        scripted(*[right] * 64) as server,
        Client(server.url, timeout=SECONDS, max_connections=3) as ctr,
    ):
        threads = [threading.Thread(target=ctr.predict, args=([{}],)) for _ in range(64)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert len(server.requests) == 64
    assert 1 <= server.connections <= 3


def test_it_imports_nothing_of_the_service() -> None:
    """A caller installs httpx and this package alone."""
    root = Path(ctr_client.__file__).parents[1]
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import ctr_client;"
        "print({n.partition('.')[0] for n in sys.modules} & {'app', 'model', 'msgspec', 'numpy',"
        " 'fastapi'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(root)], capture_output=True, text=True, cwd="/"
    )
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
