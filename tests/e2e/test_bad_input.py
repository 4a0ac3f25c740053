"""Whatever is sent: an answer of the one error shape, small, strict JSON, and never a 5xx."""

from __future__ import annotations

import codecs
import json
import signal
import socket
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.conftest import Sample, StartService
from tests.support.errors import error_of, paths
from tests.support.samples import FIELDS, NULL, candidate_of, context_of
from tests.support.serving import Service, strict, wait_until

pytestmark = pytest.mark.e2e

JSON = "application/json"
Row = dict[str, Any]


def refused(answer: httpx.Response, status: int) -> Row:
    """The error of an answer that must have ``status``."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == JSON
    return error_of(answer.content)


@pytest.fixture(scope="module")
def row(sample: Sample) -> Row:
    """A row with every field."""
    return max(sample.rows, key=len)


@pytest.fixture(scope="module")
def small(start_shared_service: StartService) -> Service:
    """A service with small limits, which refuses unknown fields."""
    return start_shared_service(
        max_body_bytes=20_000, max_instances=5, max_candidates=5, unknown_fields="error"
    )


# Numbers that JSON has no word for, or that no float holds.


@pytest.mark.parametrize("literal", ["NaN", "-Infinity", "1e400"])
@pytest.mark.parametrize("size", [1_000, 300_000, 4_000_000])
def test_a_number_that_is_not_finite_is_named_in_bodies_of_any_size(
    service: Service, literal: str, size: int
) -> None:
    """A long body gets the answer of a short one: 422 with the field's path."""
    rows = ['{"a": "' + "x" * 900 + '"}'] * (size // 1_000) + [f'{{"a": 1, "deep": [{literal}]}}']
    last = len(rows) - 1
    for path, body, where in (
        ("/predict", f'{{"instances": [{",".join(rows)}]}}', f"instances[{last}].deep[0]"),
        (
            "/rank",
            f'{{"context": {{}}, "candidates": {{"features": {{"p": [{",".join(rows)}]}}}}}}',
            f"candidates.features.p[{last}].deep[0]",
        ),
    ):
        answer = service.post(path, body.encode())
        assert answer.status_code == 422
        error = strict(answer.content)["error"]
        assert error["message"] == "a number is not finite"
        assert [detail["path"] for detail in error["details"]] == [where]


@pytest.mark.parametrize(
    "literal", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 5_000, f"-{'9' * 5_000}"]
)
@pytest.mark.parametrize("beside", ["{}", '{"placement":"top"}', '{"user_id":true,"placement":1}'])
def test_numbers_that_are_none_name_their_path(service: Service, literal: str, beside: str) -> None:
    """A literal that is no finite number is 422 and named, whatever else is wrong beside it."""
    more = beside.removeprefix("{").removesuffix("}")
    features = f'{{"price":{literal}{"," if more else ""}{more}}}'
    answer = service.post("/predict", f'{{"instances":[{{}},{features}]}}'.encode())
    assert paths(refused(answer, 422)) == ["instances[1].price"]

    body = f'{{"context":{{}},"candidates":[{{"features":{{}}}},{{"features":{features}}}]}}'
    answer = service.post("/rank", body.encode())
    assert paths(refused(answer, 422)) == ["candidates[1].features.price"]

    body = f'{{"context":{{}},"candidates":{{"features":{{"price":[1,2,{literal}]}}}}}}'
    answer = service.post("/rank", body.encode())
    assert paths(refused(answer, 422)) == ["candidates.features.price[2]"]


def test_many_bad_numbers_are_counted_and_a_few_named(service: Service) -> None:
    """Many NaNs at the end of long and deep paths get a small answer that counts them."""
    answer = service.post("/predict", _many_bad_numbers(50_000))
    assert refused(answer, 422)["total"] == 50_000


def test_a_large_body_of_bad_numbers_is_named_like_a_small_one(service: Service) -> None:
    """The same code and the same first path, whatever a body's size."""
    few, many = (
        refused(service.post("/predict", _many_bad_numbers(count)), 422)
        for count in (1_000, 100_000)
    )
    assert (few["code"], few["message"]) == (many["code"], many["message"])
    assert few["details"][0] == many["details"][0]


def _many_bad_numbers(count: int) -> bytes:
    numbers = ",".join(["NaN"] * count)
    nested = ('{"' + "k" * 90 + '":') * 200 + f"[{numbers}]" + "}" * 200
    return f'{{"instances":[{nested}]}}'.encode()


def test_a_long_list_costs_no_more_than_a_short_one(service: Service, row: Row) -> None:
    """Values after a list's last place are not looked at: not encoded, not checked."""
    kept = row["tags"] if isinstance(row.get("tags"), list) else []
    kept = (kept + ["a"] * 16)[:16]
    short = service.post("/predict", {"instances": [{**row, "tags": kept}]}).json()
    long = service.post("/predict", {"instances": [{**row, "tags": kept + ["b"] * 10_000}]})
    assert long.json()["predictions"] == short["predictions"]


def test_a_body_that_never_comes_does_not_outlive_the_drain(start_service: StartService) -> None:
    """When the time to drain is over, who still sends gets the one error shape, with 503."""
    service = start_service(drain_seconds=1)
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: 50\r\n\r\n"
        )
        wait_until(lambda: service.client.get("/live").status_code == 200, "the service answers")
        service.process.send_signal(signal.SIGTERM)
        connection.settimeout(30)
        answer = b""
        while part := connection.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 503")
    assert strict(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "not_ready"


@pytest.mark.parametrize("digits", [30, 300])
@pytest.mark.parametrize("name", ["user_id", "item_id", "country", "price", "age", "time"])
def test_huge_integers_are_out_of_range(service: Service, row: Row, name: str, digits: int) -> None:
    """An integer of 30 or 300 digits is refused by name, unless a float32 can hold it."""
    answer = service.post("/predict", {"instances": [{**row, name: int("9" * digits)}]})
    if digits == 30 and name in ("price", "age"):
        assert answer.status_code == 200
    else:
        assert paths(refused(answer, 422)) == [f"instances[0].{name}"]


# Text that is none.


@pytest.mark.parametrize(
    "body",
    [
        rb'{"instances":[{"country":"\ud800"}]}',
        rb'{"instances":[{"country":"\udc00 and more"}]}',
        rb'{"instances":[{"\ud800":1}]}',
        b'{"instances":[{"country":"\xff"}]}',
        b'{"instances":[{"\xc3\x28":1}]}',
        b'{"instances":[{"country":"\xed\xa0\x80"}]}',
        codecs.BOM_UTF8 + b'{"instances":[]}',
        '{"instances":[]}'.encode("utf-16"),
        b"",
        b"  \n",
        b"\xff\xfe\x00\x01",
        b"{",
        b'{"instances":[',
        b'{"instances":[]} more',
        b"{'instances':[]}",
        b'{"instances":[],}',
        b'{"instances":[{"price":01}]}',
        b'{"instances":[{"price":+1}]}',
        b'{"instances":[{"price":.5}]}',
        b'{"instances":[{"price":0x10}]}',
        b'{"instances":[{"price":1_000}]}',
        b'{"instances":[{"country":"a\nb"}]}',
        b'{"instances":[undefined]}',
        b"instances=1",
        b'{"instances":[{"tags":' + b"[" * 50_000 + b"]" * 50_000 + b"}]}",
        b'{"instances":[' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"]}",
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_no_json_is_400(service: Service, body: bytes) -> None:
    """Bytes that are no JSON, or nested beyond reading, are 400 at every path."""
    for path in ("/predict", "/v1/models/x:predict"):
        assert refused(service.post(path, body), 400)["code"] == "undecodable"
    body = body.replace(b'"instances":[', b'"candidates":[],"context":{"tags":[').replace(
        b"]}", b"]}}"
    )
    assert refused(service.post("/rank", body), 400)["code"] == "undecodable"


def test_surrogates_in_the_path_of_a_bad_number(service: Service) -> None:
    """A name that UTF-8 cannot hold is shown as its escape."""
    answer = service.post("/predict", rb'{"instances":[{"\ud800":NaN}]}')
    assert paths(refused(answer, 422)) == ["instances[0].\\ud800"]


def test_deep_values_of_known_and_unknown_fields(service: Service, row: Row) -> None:
    """A list nested 900 deep is wrong for a known field, and ignored for an unknown one."""
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    answer = service.post("/predict", {"instances": [{**row, "tags": deep}]})
    assert paths(refused(answer, 422)) == ["instances[0].tags[0]"]
    assert service.predict([{**row, "unheard": deep}]) == service.predict([row])


def test_the_last_of_duplicate_keys_wins(service: Service, row: Row) -> None:
    """As in most JSON readers, the last of several equal keys counts, at every level."""
    expected = service.predict([{**row, "price": 2}])
    text = json.dumps({**row, "price": 2}).removeprefix("{")
    inner = service.post("/predict", f'{{"instances":[{{"price":7,{text}]}}'.encode())
    outer = service.post("/predict", f'{{"instances":3,"instances":[{{{text}]}}'.encode())
    assert inner.json()["predictions"] == expected
    assert outer.status_code == 422 or outer.json()["predictions"] == expected


# What the body is announced as.


@pytest.mark.parametrize("path", ["/predict", "/rank", "/v1/models/x:predict"])
@pytest.mark.parametrize(
    ("media", "status"),
    [
        ("text/plain", 415),
        ("application/octet-stream", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/json", 400),
        ("Application/JSON; charset=utf-8", 400),
        ("application/vnd.api+json", 400),
        ("", 415),
        (None, 400),
    ],
)
def test_binary_data_of_any_type(
    service: Service, path: str, media: str | None, status: int
) -> None:
    """Binary bytes are 415 under a foreign type and 400 otherwise, with no trace in the log."""
    written = len(service.log())
    headers = {} if media is None else {"content-type": media}
    answer = service.client.post(path, content=b"\xff\xfe\x00\x01", headers=headers)
    refused(answer, status)
    assert "Traceback" not in service.log()[written:]


def test_json_without_a_type_is_read(service: Service, row: Row) -> None:
    """A body of no announced type is taken as JSON."""
    content = json.dumps({"instances": [row]}).encode()
    assert service.client.post("/predict", content=content).status_code == 200


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip"])
def test_compressed_bodies_are_415(service: Service, coding: str) -> None:
    """Compressed bodies are refused, not misread; ``identity`` is none."""
    refused(service.post("/predict", b"\x1f\x8b", content_encoding=coding), 415)
    body = {"instances": []}
    assert service.post("/predict", body, content_encoding="identity").status_code == 200


# JSON of another form.

PREDICT_FORMS: list[tuple[Any, str]] = [
    (None, "body"),
    ([], "body"),
    ("text", "body"),
    (3, "body"),
    (True, "body"),
    ({}, "body"),
    ({"instance": []}, "body"),
    ({"instances": None}, "instances"),
    ({"instances": {}}, "instances"),
    ({"instances": "text"}, "instances"),
    ({"instances": [[]]}, "instances[0]"),
    ({"instances": [{}, 3]}, "instances[1]"),
    ({"instances": [{}, {}, None]}, "instances[2]"),
    ({"instances": [{}, "text"]}, "instances[1]"),
]
RANK_FORMS: list[tuple[Any, str]] = [
    ([], "body"),
    ({}, "body"),
    ({"context": {}}, "body"),
    ({"candidates": []}, "body"),
    ({"context": [], "candidates": []}, "context"),
    ({"context": None, "candidates": []}, "context"),
    ({"context": {}, "candidates": None}, "candidates"),
    ({"context": {}, "candidates": 3}, "candidates"),
    ({"context": {}, "candidates": [3]}, "candidates[0]"),
    ({"context": {}, "candidates": [{}]}, "candidates[0]"),
    ({"context": {}, "candidates": [{"features": []}]}, "candidates[0].features"),
    ({"context": {}, "candidates": [{"features": {}, "id": True}]}, "candidates[0].id"),
    ({"context": {}, "candidates": [{"features": {}, "id": 1.5}]}, "candidates[0].id"),
    ({"context": {}, "candidates": [{"features": {}, "id": []}]}, "candidates[0].id"),
    ({"context": {}, "candidates": {}}, "candidates"),
    ({"context": {}, "candidates": {"features": []}}, "candidates.features"),
    ({"context": {}, "candidates": {"features": {"price": 3}}}, "candidates.features.price"),
    ({"context": {}, "candidates": {"features": {}, "id": "a"}}, "candidates.id"),
    ({"context": {}, "candidates": {"features": {}, "id": [True]}}, "candidates.id[0]"),
    *(
        ({"context": {}, "candidates": [], "top_k": top_k}, "top_k")
        for top_k in (0, -1, "5", True, 1.0, 2.5, [], {})
    ),
]


@pytest.mark.parametrize(("body", "path"), PREDICT_FORMS, ids=repr)
def test_predict_bodies_of_another_form(service: Service, body: Any, path: str) -> None:
    """JSON that is no /predict body is 422 and says where."""
    assert paths(refused(service.post("/predict", body), 422)) == [path]


@pytest.mark.parametrize(("body", "path"), RANK_FORMS, ids=repr)
def test_rank_bodies_of_another_form(service: Service, body: Any, path: str) -> None:
    """JSON that is no /rank body is 422 and says where."""
    assert paths(refused(service.post("/rank", body), 422)) == [path]


# Values that break their field's rules.

VALUES: list[tuple[str, Any, str]] = [
    ("user_id", True, ""),
    ("user_id", 12345.5, ""),
    ("user_id", "007", ""),
    ("user_id", " 7", ""),
    ("user_id", "abc", ""),
    ("user_id", "١٢", ""),
    ("user_id", "7\n", ""),
    ("user_id", 2**64, ""),
    ("user_id", -(2**63) - 1, ""),
    ("user_id", 1e300, ""),
    ("user_id", [], ""),
    ("user_id", {"a": [1, {}]}, ""),
    ("country", True, ""),
    ("country", 1.5, ""),
    ("country", ["DE"], ""),
    ("country", {}, ""),
    ("age", "1", ""),
    ("age", True, ""),
    ("price", "1", ""),
    ("price", "", ""),
    ("price", False, ""),
    ("price", [1], ""),
    ("price", 3.5e38, ""),
    ("quality", {}, ""),
    ("tags", "news", ""),
    ("tags", {}, ""),
    ("tags", 3, ""),
    ("tags", ["news", None], "[1]"),
    ("tags", ["news", True], "[1]"),
    ("tags", ["a", "b", 1.5], "[2]"),
    ("tags", [["news"]], "[0]"),
    ("time", "yesterday", ""),
    ("time", True, ""),
    ("time", [], ""),
    ("time", 1e18, ""),
    ("time", "0000-00-00", ""),
    ("placement", None, ""),
    ("placement", "", ""),
    ("placement", False, ""),
]


@pytest.mark.parametrize(("name", "value", "place"), VALUES, ids=repr)
def test_values_that_break_a_rule_are_named(
    service: Service, row: Row, name: str, value: Any, place: str
) -> None:
    """A wrong value is 422 at its path, the same alone, in a list, and in a column."""
    bad = {**row, name: value}
    error = refused(service.post("/predict", {"instances": [row, bad]}), 422)
    assert paths(error) == [f"instances[1].{name}{place}"]

    context, good = context_of(row), candidate_of(row)
    body: Row = {"context": context_of(bad), "candidates": [{"features": good}]}
    where = f"context.{name}{place}"
    if name in good:
        body["candidates"].append({"features": candidate_of(bad)})
        where = f"candidates[1].features.{name}{place}"
        columns = {key: [good[key], candidate_of(bad)[key]] for key in good}
        answer = service.post("/rank", {"context": context, "candidates": {"features": columns}})
        assert paths(refused(answer, 422)) == [f"candidates.features.{name}[1]{place}"]
    assert paths(refused(service.post("/rank", body), 422)) == [where]


def test_every_form_of_a_value_has_one_meaning(service: Service, row: Row) -> None:
    """true is never 1; 1 and "1" are one text of a string field, 1.0 is an error there."""

    def outcome(name: str, value: Any) -> Any:
        answer = service.post("/predict", {"instances": [{**row, name: value}]})
        assert answer.status_code in (200, 422)
        return answer.json()["predictions"] if answer.status_code == 200 else 422

    forms = (True, 1, 1.0, "1", "true", "True")
    text = [outcome("country", form) for form in forms]
    assert text == [422, text[1], 422, text[1], text[1], text[1]], "all unseen, or refused"
    integer = [outcome("item_id", form) for form in forms]
    assert integer == [422, integer[1], integer[1], integer[1], 422, 422]
    assert [outcome("price", form) for form in (True, "1")] == [422, 422]
    assert outcome("price", None) != 422


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "placement"])
def test_a_null_value_of_the_spec_scores_as_null(service: Service, row: Row, name: str) -> None:
    """In a row, in a list of candidates and in columns; a list field takes it in its list, too."""

    def scores(value: Any) -> list[float]:
        changed = {**row, name: value}
        context, candidate = context_of(changed), candidate_of(changed)
        listed = {"context": context, "candidates": [{"features": candidate}]}
        columns = {"features": {key: [each] for key, each in candidate.items()}}
        answers = [
            service.post("/predict", {"instances": [changed]}).json()["predictions"][0],
            service.post("/rank", listed).json()["ranking"][0]["score"],
            service.post("/rank", {**listed, "candidates": columns}).json()["ranking"][0]["score"],
        ]
        return [float(answer) for answer in answers]

    assert scores(NULL) == scores(None)
    if name == "tags":
        assert scores([NULL]) == scores(None)
        assert scores([NULL, "news"]) == scores(["news"])


def test_a_null_value_of_a_required_field_is_missing(service: Service, row: Row) -> None:
    """It is as absent as null."""
    error = refused(service.post("/predict", {"instances": [{**row, "placement": "\\N"}]}), 422)
    assert error["details"] == [{"path": "instances[0].placement", "problem": "required"}]


def test_a_missing_required_field_is_named(service: Service, row: Row) -> None:
    """Its absence is an error at its own path."""
    without = {name: value for name, value in row.items() if name != "placement"}
    error = refused(service.post("/predict", {"instances": [row, without]}), 422)
    assert paths(error) == ["instances[1].placement"]
    body = {"context": context_of(without), "candidates": []}
    assert paths(refused(service.post("/rank", body), 422)) == ["context.placement"]


def test_fields_of_the_other_side_are_refused(service: Service, row: Row) -> None:
    """A context field inside a candidate would be ignored silently: it is an error."""
    context, features = context_of(row), candidate_of(row)
    body = {"context": context, "candidates": [{"features": {**features, "country": "DE"}}]}
    error = refused(service.post("/rank", body), 422)
    assert paths(error) == ["candidates[0].features.country"]
    body = {"context": {**context, "price": 1}, "candidates": [{"features": features}]}
    assert paths(refused(service.post("/rank", body), 422)) == ["context.price"]


def test_columns_of_unequal_length_are_refused(service: Service, row: Row) -> None:
    """Columns and ids have one length; those that differ from the first are named."""
    columns = {"price": [1, 2], "quality": [0.5], "item_id": [1, 2]}
    body: Row = {"context": context_of(row), "candidates": {"features": columns, "id": [1]}}
    error = refused(service.post("/rank", body), 422)
    assert paths(error) == ["candidates.features.quality", "candidates.id"]


def test_a_large_list_of_errors_gets_a_small_answer(service: Service, row: Row) -> None:
    """2,000 candidates with 4 wrong fields each: a few are named, all counted, none echoed."""
    filler = "f" * 200
    features = {"item_id": filler, "tags": filler, "price": filler, "quality": filler}
    body = {"context": context_of(row), "candidates": [{"features": features}] * 2_000}
    content = json.dumps(body).encode()
    before = service.cpu_seconds()
    answer = service.post("/rank", content)
    seconds = service.cpu_seconds() - before
    error = refused(answer, 422)
    assert error["total"] == 8_000
    assert sorted(paths(error)[:4]) == sorted(f"candidates[0].features.{n}" for n in features)
    assert filler[:20] not in answer.text
    assert seconds < 1, "of CPU time, five times the bound: a slow machine does not fail this"


# Limits.


def test_lists_over_their_limit_are_413(small: Service, row: Row) -> None:
    """One instance or candidate more than allowed is 413; as many as allowed are scored."""
    context, features = context_of(row), candidate_of(row)
    assert small.post("/predict", {"instances": [row] * 5}).status_code == 200
    assert refused(small.post("/predict", {"instances": [row] * 6}), 413)["code"] == "too_large"
    for count, status in ((5, 200), (6, 413)):
        candidates: Any = [{"features": features}] * count
        answer = small.post("/rank", {"context": context, "candidates": candidates})
        assert answer.status_code == status
        candidates = {"features": {"price": [1] * count}}
        answer = small.post("/rank", {"context": context, "candidates": candidates})
        assert answer.status_code == status
    candidates = {"features": {}, "id": [1] * 6}
    refused(small.post("/rank", {"context": context, "candidates": candidates}), 413)


def test_bodies_around_the_limit(small: Service, row: Row) -> None:
    """A body of exactly the limit is served, one byte more is 413, declared or chunked."""
    content = json.dumps({"instances": [row]}).encode()
    exact = content + b" " * (20_000 - len(content))

    def chunked(body: bytes) -> httpx.Response:
        parts = (body[start : start + 3_000] for start in range(0, len(body), 3_000))
        return small.client.post("/predict", content=parts, headers={"content-type": JSON})

    assert small.post("/predict", exact).status_code == 200
    assert chunked(exact).status_code == 200
    refused(small.post("/predict", exact + b" "), 413)
    refused(chunked(exact + b" "), 413)


def raw_answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of what a connection answers until it is closed."""
    received = b""
    with suppress(ConnectionError):
        while part := connection.recv(65_536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_a_declared_size_over_the_limit_is_refused_unread(service: Service) -> None:
    """A gigabyte that is announced is 413 at once, before any of it arrives."""
    with socket.create_connection(("127.0.0.1", service.port), 30) as connection:
        head = "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        connection.sendall(f"{head}content-length: 1073741824\r\n\r\n".encode())
        status, body = raw_answer(connection)
    assert status == 413
    assert error_of(body)["code"] == "too_large"


def test_an_endless_body_is_cut_at_the_limit(service: Service) -> None:
    """Of 200 MB in chunks little more than the limit is held, and a bounded part is read at all.

    The rest is read and dropped, so that the client sees its 413: up to 16 MiB in the hope that
    the connection can be kept, then up to 64 MiB of a connection that ends.
    """
    before = service.resident_bytes()
    limit, dropped, block = 8 * 2**20, (16 + 64) * 2**20, 65_536
    sent = 0
    with socket.create_connection(("127.0.0.1", service.port), 30) as connection:
        head = "POST /rank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        connection.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        chunk = f"{block:x}\r\n".encode() + b" " * block + b"\r\n"
        try:
            while sent < 200 * 2**20:
                connection.sendall(chunk)
                sent += block
        except ConnectionError:
            pass
        else:
            raise AssertionError("200 MB were taken")
    assert limit <= sent < dropped + 3 * limit, "what is dropped, and the sockets' buffers"
    assert service.resident_bytes() - before < 2 * limit
    assert service.metrics()['ctr_requests_total{outcome="413",route="rank"}'] >= 1


# Headers, methods and paths.


@pytest.mark.parametrize("value", ["0", "-5", "1.5", "abc", "", "1e3", "9999999999", "10 ms"])
def test_bad_timeouts_are_422(service: Service, value: str) -> None:
    """A timeout that is no whole number of milliseconds is refused, not ignored."""
    answer = service.post("/predict", {"instances": []}, X_Request_Timeout_Ms=value)
    assert paths(refused(answer, 422)) == ["X-Request-Timeout-Ms"]


def test_timeouts_may_shorten_the_deadline(service: Service, row: Row) -> None:
    """A longer timeout than the deadline's is taken as the deadline."""
    for value in ("9000", "999999999"):
        answer = service.post("/predict", {"instances": [row]}, X_Request_Timeout_Ms=value)
        assert answer.status_code == 200


def test_the_shortest_of_several_timeouts_counts(service: Service, row: Row) -> None:
    """A proxy may add a header of its own: the time is not cut twice."""
    body = json.dumps({"instances": [row]}).encode()
    headers = [("content-type", JSON), *[("x-request-timeout-ms", "9000")] * 3]
    answer = service.client.post("/predict", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    shorter = [*headers, ("x-request-timeout-ms", "0")]
    assert service.client.post("/predict", content=body, headers=shorter).status_code == 422


def test_request_ids_are_echoed_or_made(service: Service) -> None:
    """A plain id comes back, in errors too; any other is replaced by a new one."""
    body = {"instances": []}
    for good in ("abc-123", "a" * 128, "~!#%[]{}"):
        for content in (body, b"{"):
            answer = service.post("/predict", content, X_Request_Id=good)
            assert answer.headers["x-request-id"] == good
    made = set()
    for bad in ("a" * 129, "with space", "tab\there", "", None):
        headers = {} if bad is None else {"X_Request_Id": bad}
        answer = service.post("/predict", body, **headers)
        assert answer.headers["x-request-id"] not in ("", bad)
        made.add(answer.headers["x-request-id"])
    assert len(made) == 5


def test_unknown_fields_can_be_errors(small: Service, row: Row) -> None:
    """With CTR_UNKNOWN_FIELDS=error they are 422, with the nearest known name."""
    error = refused(small.post("/predict", {"instances": [{**row, "contry": "DE"}]}), 422)
    assert paths(error) == ["instances[0].contry"]
    assert "'country'" in error["details"][0]["problem"]
    context, features = context_of(row), candidate_of(row)
    for body, path in (
        ({"context": {**context, "usr_id": 1}, "candidates": []}, "context.usr_id"),
        (
            {"context": context, "candidates": [{"features": {**features, "prize": 1}}]},
            "candidates[0].features.prize",
        ),
        (
            {"context": context, "candidates": {"features": {"tag": [["a"]]}}},
            "candidates.features.tag",
        ),
    ):
        assert paths(refused(small.post("/rank", body), 422)) == [path]
    many = {f"{'x' * 500}{number}": 1 for number in range(30)}
    assert refused(small.post("/predict", {"instances": [{**row, **many}]}), 422)["total"] == 30


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/predict", "/rank", "/v1/models/x:predict"])
def test_other_methods_are_405(service: Service, method: str, path: str) -> None:
    """Only POST scores; the answer says so."""
    answer = service.client.request(method, path)
    assert answer.headers["allow"] == "POST"
    if method == "HEAD":
        assert answer.status_code == 405
    else:
        assert refused(answer, 405)["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/predict/x", "/v1/models", "/v1/models/a/b:predict", "/Predict"]
)
def test_other_paths_are_404(service: Service, path: str) -> None:
    """A path that is not there is 404 for every method."""
    assert refused(service.post(path, {"instances": []}), 404)["code"] == "not_found"
    assert refused(service.client.get(path), 404)["code"] == "not_found"
