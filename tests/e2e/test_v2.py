"""The Open Inference Protocol v2: the scores of /predict, as tensors, and nothing believed."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import StartService
from tests.support.samples import Sample
from tests.support.serving import Service
from tests.support.tensors import LENGTH, in_binary, inputs, outputs, texts

pytestmark = pytest.mark.e2e
INFER = "/v2/models/ctr/infer"
JSON = {"content-type": "application/json"}


def infer(service: Service, body: Any, status: int = 200, **headers: str) -> Any:
    """Send a body, which is JSON or bytes, and return the answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = service.client.post(INFER, content=content, headers={**JSON, **headers})
    assert answer.status_code == status, answer.text
    return answer


def user(*values: int, **members: Any) -> dict[str, Any]:
    """An input of users beside the required placement is left to the test."""
    return {"name": "user_id", "shape": [len(values)], "datatype": "INT64", "data": [*values],
            **members}  # fmt: skip


PLACEMENT = {"name": "placement", "shape": [1], "datatype": "BYTES", "data": ["top"]}


@pytest.mark.parametrize("nested", [True, False])
def test_tensors_have_the_scores_of_rows(service: Service, sample: Sample, nested: bool) -> None:
    """Texts, numbers, times, lists flat or nested, missing ones: as /predict, JSON and binary."""
    rows = sample.rows[:300]
    expected = service.predict(rows)
    given = inputs(rows, nested)
    told = infer(service, {"inputs": given, "id": 'a"b'}).json()
    assert (told["model_name"], told["id"]) == ("ctr", 'a"b')
    assert told["model_version"] == service.client.get("/model").json()["version"]
    found = outputs(json.dumps(told).encode(), None)
    assert found["score"] == pytest.approx(expected, abs=1e-6)
    score = 1 / (1 + np.exp(-np.array(found["logit"])))
    assert score == pytest.approx(expected, abs=1e-5)
    body, header = in_binary(given, parameters={"binary_data_output": True})
    answer = infer(service, body, **header)
    assert answer.headers["content-type"] == "application/octet-stream"
    binary = outputs(answer.content, answer.headers[LENGTH])
    for name, values in found.items():
        assert binary[name] == pytest.approx(values, abs=1e-7)


def test_outputs_are_those_that_were_asked_for(service: Service) -> None:
    """One of them binary, the other JSON; in the caller's order."""
    asked = [{"name": "logit", "parameters": {"binary_data": True}}, {"name": "score"}]
    answer = infer(service, {"inputs": [user(7), PLACEMENT], "outputs": asked})
    head = json.loads(answer.content[: int(answer.headers[LENGTH])])
    assert [each["name"] for each in head["outputs"]] == ["logit", "score"]
    assert outputs(answer.content, answer.headers[LENGTH]).keys() == {"logit", "score"}
    only = infer(service, {"inputs": [user(7), PLACEMENT], "outputs": [{"name": "score"}]})
    assert [each["name"] for each in only.json()["outputs"]] == ["score"]
    assert LENGTH not in only.headers


def test_no_rows_have_no_scores(service: Service) -> None:
    """Tensors of no rows are answered with tensors of no rows."""
    empty = [{**user(), "shape": [0]}, {**PLACEMENT, "shape": [0], "data": []}]
    told = infer(service, {"inputs": empty}).json()
    assert [each["shape"] for each in told["outputs"]] == [[0], [0]]


BINARY = {"name": "user_id", "shape": [1], "datatype": "INT64"}
TEXT = {"name": "country", "shape": [1], "datatype": "BYTES"}


def sized(size: Any, tensor: dict[str, Any] = BINARY, **changes: Any) -> dict[str, Any]:
    """An input that says how many bytes it has behind the head."""
    return {**tensor, **changes, "parameters": {"binary_data_size": size}}


@pytest.mark.parametrize(
    ("tensor", "tail"),
    [
        (sized(-8), b"x" * 8),
        (sized(2**63), b"x" * 8),
        (sized(2**64 + 8), b"x" * 8),
        (sized(8.0), b"x" * 8),
        (sized("8"), b"x" * 8),
        (sized(True), b"x"),
        (sized(9), b"x" * 8),
        (sized(8), b"x" * 9),
        (sized(7), b"x" * 7),
        (sized(0), b""),
        (sized(8, shape=[-1]), b"x" * 8),
        (sized(8, shape=[2**63]), b"x" * 8),
        (sized(8, shape=[2**62, 4]), b"x" * 8),
        (sized(8, shape=[2]), b"x" * 8),
        ({**sized(8), "data": [1]}, b"x" * 8),
        (BINARY, b""),
        (user(1, 2) | {"shape": [1]}, b""),
        (user(1) | {"shape": [2]}, b""),
        (user(1) | {"data": [[1], 2]}, b""),
        (sized(5, TEXT), struct.pack("<I", 2) + b"a"),
        (sized(4, TEXT), struct.pack("<I", 2**32 - 1)),
        (sized(3, TEXT), b"\0\0\0"),
        (sized(6, TEXT), texts(["a"]) + b"x"),
        (sized(5, TEXT), struct.pack("<I", 1) + b"\xff"),
        (sized(5, TEXT, shape=[2]), texts(["a"])),
    ],
)  # fmt: skip
def test_sizes_that_lie_are_400(service: Service, tensor: dict[str, Any], tail: bytes) -> None:
    """Negative, beyond the body, of another shape, not a number; the input is named."""
    head = json.dumps({"inputs": [tensor]}).encode()
    told = infer(service, head + tail, 400, **{LENGTH: str(len(head))}).json()
    assert told["code"] == "undecodable"
    assert isinstance(told["error"], str)


@pytest.mark.parametrize("length", ["-1", "x", "", "9999999", str(2**63), "1" * 40, "0"])
def test_a_head_length_that_lies_is_400(service: Service, length: str) -> None:
    """Beyond the body, or no number."""
    head = json.dumps({"inputs": [user(1), PLACEMENT]}).encode()
    told = infer(service, head, 400, **{LENGTH: length}).json()
    assert told["code"] == "undecodable"


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"inputs": [user(1)]}, 422, "inputs.placement[0]"),
        ({"inputs": [user(1), user(1), PLACEMENT]}, 422, "inputs.user_id: given twice"),
        ({"inputs": [user(1, 2), PLACEMENT]}, 422, "1 rows, expected 2 as in the first input"),
        ({"inputs": []}, 422, "inputs: expected one or more"),
        ({"inputs": [user(1) | {"data": ["1"]}, PLACEMENT]}, 422, "not a value of datatype INT64"),
        ({"inputs": [user(1) | {"data": [None]}, PLACEMENT]}, 422, "inputs.user_id[0]"),
        ({"inputs": [user(1) | {"datatype": "COMPLEX"}]}, 422, "inputs[0].datatype"),
        ({"inputs": [user(1) | {"shape": [1, 1, 1]}]}, 422, "inputs[0].shape"),
        ({"inputs": [user(1, 2) | {"shape": [1, 2]}]}, 422, "the field has single values"),
        ({"inputs": [user(1, parameters={"missing": "x"})]}, 422, ".parameters.missing"),
        ({"inputs": [user(1, parameters={"shared_memory_region": "x"})]}, 422, "shared memory"),
        ({"inputs": [user(1), PLACEMENT], "outputs": [{"name": "x"}]}, 422, "outputs[0].name"),
        ({"inputs": [user(1), PLACEMENT | {"data": ["x" * 70_000]}]}, 413, "inputs.placement[0]"),
        ({"inputs": [user(*range(6_000))]}, 413, "more than 5000 rows"),
        ([], 422, "the wrong form"),
        (b"{", 400, "not JSON"),
        (b'{"inputs": [{"name": "\xff"}]}', 400, "UTF-8"),
    ],
)
def test_what_is_wrong_is_named(service: Service, body: Any, status: int, told: str) -> None:
    """Paths as in /predict; the text of the error has them, as clients of the protocol show it."""
    answer = infer(service, body, status).json()
    assert told in answer["error"]


def test_types_deadlines_and_limits_are_those_of_predict(
    service: Service, start_service: StartService
) -> None:
    """415 before the body is read, 422 for a header, 413 for a body, 404 without a name."""
    body = {"inputs": [user(1), PLACEMENT]}
    assert infer(service, body, 415, **{"content-type": "text/plain"}).json()["code"]
    assert infer(service, body, 415, **{"content-encoding": "gzip"}).json()["code"]
    infer(service, body, 200, **{"content-type": "application/octet-stream"})
    infer(service, body, 422, **{"x-request-timeout-ms": "0"})
    answer = infer(service, body, 200, **{"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == "mine"
    assert service.client.post("/v2/models/a/b/infer", json=body).status_code == 404
    assert service.client.get(INFER).status_code == 405
    small = start_service(max_body_bytes=1_000, unknown_fields="error")
    big = {"inputs": [user(*range(300))]}
    assert infer(small, big, 413).json()["code"] == "too_large"
    strange = {"inputs": [PLACEMENT, user(1) | {"name": "user"}]}
    assert "unknown field; did you mean 'user_id'" in infer(small, strange, 422).json()["error"]
    text = small.client.get("/metrics").text
    for outcome in ("413", "422"):
        assert f'ctr_requests_total{{outcome="{outcome}",route="infer"}} 1.0' in text


def test_metadata_and_health(service: Service) -> None:
    """Inputs of every kind, the extension, and readiness by any name."""
    get = service.client.get
    assert get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    assert get("/v2/models/any/ready").json() == {"name": "any", "ready": True}
    told = get("/v2/models/any").json()
    shapes = {each["name"]: (each["datatype"], each["shape"]) for each in told["inputs"]}
    assert shapes["user_id"] == ("INT64", [-1])
    assert shapes["tags"] == ("BYTES", [-1, -1])
    assert shapes["price"] == ("FP32", [-1])
    assert [each["name"] for each in told["outputs"]] == ["score", "logit"]


def test_a_version_is_asked_for(service: Service) -> None:
    """The one in use answers; another is 404 at every path."""
    version = service.client.get("/model").json()["version"]
    body = {"inputs": [user(1), PLACEMENT]}
    for wanted, status in ((version, 200), ("1", 404)):
        path = f"/v2/models/ctr/versions/{wanted}"
        assert service.client.get(path).status_code == status
        assert service.client.get(f"{path}/ready").status_code == status
        answer = service.client.post(f"{path}/infer", json=body)
        assert answer.status_code == status
        assert answer.json()["model_name" if status == 200 else "error"]


TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["user_id", "country", "tags", "price", "time", "x"]),
        "shape": st.lists(st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**63]), max_size=3),
        "datatype": st.sampled_from(["BYTES", "INT64", "FP32", "BOOL", "FP16", "UINT8", "X"]),
    },
    optional={
        "data": st.lists(
            st.none()
            | st.booleans()
            | st.integers(-3, 2**64)
            | st.floats(allow_nan=False)
            | st.text(max_size=3)
            | st.lists(st.integers(0, 3), max_size=3),
            max_size=4,
        ),
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "missing", "padding"]),
            st.integers(-9, 30) | st.text(max_size=2) | st.sampled_from([2**63, 1.5, "NaN", None]),
            max_size=3,
        ),
    },
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TENSORS, max_size=3), st.binary(max_size=40), st.integers(-1, 1))
def test_no_body_is_an_internal_error(
    service: Service, tensors: list[Any], tail: bytes, off: int
) -> None:
    """Whatever heads and tails say, the answer is scores or a refusal, and the service goes on."""
    head = json.dumps({"inputs": tensors}).encode()
    headers = {**JSON, LENGTH: str(len(head) + off)}
    answer = service.client.post(INFER, content=head + tail, headers=headers)
    assert answer.status_code in (200, 400, 413, 422), answer.text
