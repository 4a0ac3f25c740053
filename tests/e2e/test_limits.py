"""The cost of one request is bounded, and each bound says where it was passed."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from app.scoring.decoding import MAX_VALUES
from app.web.bounded_protocol import HEAD_BYTES, HEADERS
from tests.conftest import StartService
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, strict

pytestmark = pytest.mark.e2e

ROW_BYTES = 2_000
Row = dict[str, Any]


@pytest.fixture(scope="module")
def small(start_shared_service: StartService) -> Service:
    """A service that takes small rows only."""
    return start_shared_service(max_row_bytes=ROW_BYTES)


@pytest.fixture(scope="module")
def row(sample: Sample) -> Row:
    """A row with every field."""
    return max(sample.rows, key=len)


def sized(value: Row, size: int) -> str:
    """An object of so many bytes of JSON: a field that no spec knows makes up the rest."""
    text = json.dumps({**value, "unheard": ""})
    return f"{text[:-2]}{'y' * (size - len(text))}{text[-2:]}"


def place_of(answer: Any, status: int) -> str | None:
    """Where an answer of a status says that the bound was passed."""
    assert answer.status_code == status, answer.text
    if status == 200:
        return None
    error = strict(answer.content)["error"]
    assert error["code"] == "too_large"
    (detail,) = error["details"]
    assert detail["problem"] == f"over {ROW_BYTES} bytes"
    return str(detail["path"])


@pytest.mark.parametrize(("over", "status"), [(0, 200), (1, 413)])
def test_each_row_has_its_bound(small: Service, row: Row, over: int, status: int) -> None:
    """An instance, a context and a candidate of as many bytes as allowed; one more is named."""
    size = ROW_BYTES + over
    context, candidate = context_of(row), candidate_of(row)
    large = sized(row, size)
    assert len(large) == size
    answer = small.post("/predict", f'{{"instances":[{json.dumps(row)},{large}]}}'.encode())
    assert place_of(answer, status) == ("instances[1]" if over else None)
    body = f'{{"context":{sized(context, size)},"candidates":[]}}'
    assert place_of(small.post("/rank", body.encode()), status) == ("context" if over else None)
    inner = sized(candidate, size - len('{"features":}'))
    body = (
        f'{{"context":{json.dumps(context)},"candidates":'
        f'[{{"features":{{}}}},{{"features":{inner}}}]}}'
    )
    answer = small.post("/rank", body.encode())
    assert place_of(answer, status) == ("candidates[1]" if over else None)


@pytest.mark.parametrize(("over", "status"), [(0, 200), (1, 413)])
def test_each_value_of_a_long_column_has_the_bound_of_a_row(
    small: Service, row: Row, over: int, status: int
) -> None:
    """A column that is long as a whole may have many values, but none that is longer than a row."""
    tags = [["z" * 100]] * 2_000
    tags[1_234] = ["y" * (ROW_BYTES + over - 4)]
    body = {"context": context_of(row), "candidates": {"features": {"tags": tags}}}
    answer = small.post("/rank", json.dumps(body).encode())
    path = "candidates.features.tags[1234]" if over else None
    assert place_of(answer, status) == path


def test_a_long_column_is_read_as_any_other(service: Service, sample: Sample) -> None:
    """Decoded value by value it gives the scores of the same candidates as rows; what is wrong in
    it is named by its place."""
    rows = [candidate_of(row) for row in sample.rows[:1_500]]
    for each in rows:
        each["tags"] = [*each.get("tags", []), "never seen " * 10]
    context = context_of(sample.rows[0])
    names = sorted({name for row in rows for name in row})
    columns = {name: [row.get(name) for row in rows] for name in names}
    assert len(json.dumps(columns["tags"])) > 128 * 1024
    by_row = service.rank(context=context, candidates=[{"features": row} for row in rows])
    by_column = service.rank(context=context, candidates={"features": columns})
    assert [place["index"] for place in by_row] == [place["index"] for place in by_column]
    assert [place["score"] for place in by_row] == pytest.approx(
        [place["score"] for place in by_column], abs=1e-6
    )
    columns["tags"][1_111] = ["fine", 1.5]
    answer = service.post("/rank", {"context": context, "candidates": {"features": columns}})
    assert answer.status_code == 422
    (detail,) = strict(answer.content)["error"]["details"]
    assert detail["path"] == "candidates.features.tags[1111][1]"


def test_a_long_column_has_no_more_values_than_candidates_may_be(
    start_service: StartService, row: Row
) -> None:
    """Too many values are 413 before they are decoded."""
    service = start_service(max_candidates=1_000)
    body = {"context": context_of(row), "candidates": {"features": {"tags": [[]] * 100_000}}}
    answer = service.post("/rank", json.dumps(body).encode())
    assert answer.status_code == 413
    assert strict(answer.content)["error"]["message"] == "more than 1000 candidates"


@pytest.mark.parametrize("item", ["1", "{}", "[]", '""'])
def test_a_body_of_millions_of_values_is_not_read(service: Service, item: str) -> None:
    """A body within its bytes may hold far more items than any list; they are not even counted."""
    items = ",".join([item] * (MAX_VALUES + 1))
    bodies = {
        "/predict": f'{{"instances":[{items}]}}',
        "/rank": f'{{"context":{{}},"candidates":[{items}]}}',
    }
    for path, body in bodies.items():
        answer = service.post(path, body.encode())
        assert answer.status_code == 413
        assert "values" in strict(answer.content)["error"]["message"]


# What comes before and around a body.


def ask(port: int, *parts: bytes) -> tuple[int, Row]:
    """Status and body of the answer to raw bytes, on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        while b"\r\n\r\n" not in received or not received.partition(b"\r\n\r\n")[2]:
            more = connection.recv(65_536)
            if not more:
                break
            received += more
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), strict(body)


def predict_head(row: Row, headers: str = "", query: str = "") -> tuple[bytes, bytes]:
    """A request for one score: its head, whose size is the first number that counts, and body."""
    body = json.dumps({"instances": [row]}).encode()
    head = f"POST /predict{query} HTTP/1.1\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode(), body


def counted(row: Row) -> int:
    """Bytes that count of the head without more headers: its target, names and values."""
    head, _ = predict_head(row)
    lines = head.decode().split("\r\n")[1:-2]
    return len("/predict") + sum(len("".join(line.split(": "))) for line in lines)


def is_refused(answer: tuple[int, Row], status: int, code: str) -> bool:
    """Return whether an answer is this error."""
    return answer[0] == status and answer[1]["error"]["code"] == code


def test_heads_around_the_limit(service: Service, row: Row) -> None:
    """A head of as many bytes as allowed is served, one byte more is 431, however it comes."""
    room = HEAD_BYTES - counted(row)
    for over in (0, 1):
        value = "v" * (room - len("more") + over)
        by_header = predict_head(row, f"more: {value}\r\n")
        by_query = predict_head(row, query="?" + "q" * (room - 1 + over))
        for head, body in (by_header, by_query):
            for parts in ((head + body,), (head, body), (head[:20_000], head[20_000:], body)):
                answer = ask(service.port, *parts)
                assert is_refused(answer, 431, "head_too_large") if over else answer[0] == 200


def test_the_number_of_headers_is_limited(service: Service, row: Row) -> None:
    """A hundred headers are served, one more is 431, on every path."""
    for count in (HEADERS - 1, HEADERS):
        headers = "".join(f"x-{number}: 1\r\n" for number in range(count))
        answer = ask(service.port, b"".join(predict_head(row, headers)))
        live = ask(service.port, f"GET /live HTTP/1.1\r\nhost: x\r\n{headers}\r\n".encode())
        if count == HEADERS:
            assert is_refused(answer, 431, "head_too_large")
            assert is_refused(live, 431, "head_too_large")
        else:
            assert answer[0] == live[0] == 200


@pytest.mark.parametrize("start", [b"GET /live HTTP/1.1\r\nx: ", b"GET /live?", b"a" * 3 + b" /"])
def test_an_endless_head_is_cut(service: Service, start: bytes) -> None:
    """A header, or a target, that never ends is refused when too much of it has come."""
    sent, block = 0, b"y" * 65_536
    with socket.create_connection(("127.0.0.1", service.port), 20) as connection:
        connection.sendall(start)
        try:
            while sent < 100 * 2**20:
                connection.sendall(block)
                sent += len(block)
        except ConnectionError:
            pass
        else:
            raise AssertionError("100 MB were taken")
    # A client is read for a while after its refusal, so that it sees it: up to 64 MiB.
    assert sent < (64 + 16) * 2**20, "what is dropped, and the sockets' buffers"
    assert service.predict([]) == []


def test_an_endless_trailer_is_cut(start_service: StartService, row: Row) -> None:
    """Headers after a chunked body are kept by nobody for ever."""
    service = start_service(max_body_bytes=100_000)
    body = json.dumps({"instances": [row]}).encode()
    head = (
        b"POST /predict HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        + b"%x\r\n%b\r\n0\r\n" % (len(body), body)
    )
    assert ask(service.port, head, b"trailer: 1\r\n\r\n")[0] == 200
    before, sent = service.resident_bytes(), 0
    line = b"trailer: " + b"y" * 60_000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", service.port), 20) as connection:
        connection.sendall(head)
        try:
            while sent < 100 * 2**20:
                connection.sendall(line)
                sent += len(line)
        except ConnectionError:
            pass
        else:
            raise AssertionError("100 MB were taken")
    assert service.resident_bytes() - before < 16 * 2**20
    assert service.predict([row])


@pytest.mark.parametrize(
    "sent", [b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
             b"GET /live HTTP/1.1\r\nhost x\r\n\r\n"]
)  # fmt: skip
def test_what_is_no_http_is_400(service: Service, sent: bytes) -> None:
    """Other protocols and broken heads get the one error shape too."""
    assert is_refused(ask(service.port, sent), 400, "undecodable")
