"""A real service explains its scores: what adds up, who may ask, and what bad input gets."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.store.sqlite import SqliteStore
from app.store.store import Item
from tests.conftest import PATIENT_MS, StartService
from tests.support.format_1 import as_format_1
from tests.support.samples import CANDIDATE, CONTEXT, Sample, candidate_of, context_of
from tests.support.serving import Service, free_port, logit, strict

pytestmark = pytest.mark.e2e
KEY = "0123456789abcdef" * 4
FIELDS = {*CONTEXT, *CANDIDATE}
STORED = 12
"""Rows whose items and users are stored."""


@pytest.fixture(scope="module")
def admin_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def service(
    start_shared_service: StartService, admin_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Service:
    """A service that explains to all callers, and on its admin port."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(hashlib.sha256(KEY.encode()).hexdigest())
    return start_shared_service(explain="on", admin_port=admin_port, admin_key_file=keys)


@pytest.fixture(scope="module")
def int8_service(start_shared_service: StartService) -> Service:
    return start_shared_service(explain="on", precision="int8")


@pytest.fixture(scope="module")
def stored_service(
    start_shared_service: StartService, sample: Sample, tmp_path_factory: pytest.TempPathFactory
) -> Service:
    """A service whose store has the items and users of some rows, by their places."""
    path = tmp_path_factory.mktemp("store") / "store.db"
    store = SqliteStore(path, create=True)
    rows = list(enumerate(sample.rows[:STORED]))
    store.put(Item(number, candidate_of(row)) for number, row in rows)
    store.profiles.put(Item(number, profile_of(row)) for number, row in rows)
    store.close()
    return start_shared_service(
        explain="on", store=f"sqlite://{path}", profile_key="user_id", redis_timeout_ms=PATIENT_MS
    )


@pytest.fixture
def admin(admin_port: int, service: Service) -> Iterator[httpx.Client]:
    address = f"http://127.0.0.1:{admin_port}"
    with httpx.Client(base_url=address, timeout=60.0, trust_env=False) as client:
        yield client


def profile_of(row: dict[str, Any]) -> dict[str, Any]:
    """What is stored of the user of a row."""
    return {name: value for name, value in row.items() if name in ("country", "age")}


def explained(service: Service, **body: Any) -> dict[str, Any]:
    answer = service.post("/explain", body)
    assert answer.status_code == 200, answer.text
    return dict(strict(answer.content))


def of_row(service: Service, row: dict[str, Any], **more: Any) -> dict[str, Any]:
    return explained(service, context=context_of(row), candidate=candidate_of(row), **more)


def terms(found: dict[str, Any]) -> float:
    """The sum of the network's terms."""
    pairs = sum(pair["value"] for pair in found["pairs"])
    return float(found["bias"] + sum(found["first_order"].values()) + pairs + found["deep"])


def shares(found: dict[str, Any]) -> float:
    """The sum of what the fields add to the baseline."""
    return float(found["baseline_logit"] + sum(found["shapley"].values()))


@pytest.mark.parametrize("which", ["service", "int8_service"])
def test_parts_add_up_to_the_score(
    which: str, sample: Sample, request: pytest.FixtureRequest
) -> None:
    """Of the precision that serves: the logit is that of /predict."""
    service: Service = request.getfixturevalue(which)
    rows = sample.rows[:20]
    scores = service.predict(rows)
    for row, score in zip(rows, scores, strict=True):
        found = of_row(service, row)
        assert found["score"] == pytest.approx(score, abs=1e-6)
        assert found["logit"] == pytest.approx(logit(score), abs=1e-4)
        assert terms(found) == pytest.approx(found["logit"], abs=1e-4)
        assert shares(found) == pytest.approx(found["logit"], abs=1e-4)
        assert found["shapley"].keys() == found["first_order"].keys() == FIELDS
        assert found["method"] == "exact"
        assert set(found["standard_error"].values()) == {0.0}


def test_two_candidates_are_compared(service: Service, sample: Sample) -> None:
    """The differences add up to that of the logits, the largest first."""
    first, second = sample.rows[:2]
    listed = [{"id": "a", "features": candidate_of(first)}, {"features": candidate_of(second)}]
    found = explained(service, context=context_of(first), candidates=listed)
    one, other = found["candidates"]
    assert one["id"] == "a"
    assert "id" not in other
    told = found["difference"]
    assert told["logit"] == pytest.approx(one["logit"] - other["logit"], abs=1e-6)
    by_field = [each["value"] for each in told["shapley"]]
    assert sum(by_field) == pytest.approx(told["logit"], abs=1e-4)
    assert by_field == sorted(by_field, key=abs, reverse=True)
    of_terms = [each["value"] for name in ("first_order", "pairs") for each in told[name]]
    assert sum(of_terms) + told["deep"] == pytest.approx(told["logit"], abs=1e-4)
    of_context = {frozenset(pair["fields"]) for pair in told["pairs"]} & {
        frozenset(pair) for pair in [("user_id", "country"), ("country", "age")]
    }
    assert not of_context, "both have the same context"


def test_the_order_of_ranking_is_explained(service: Service, sample: Sample) -> None:
    """The sign of the difference is the order of /rank."""
    row, other = sample.rows[5], sample.rows[9]
    listed = [{"features": candidate_of(each)} for each in (row, other)]
    first = service.rank(context=context_of(row), candidates=listed)[0]["index"]
    told = explained(service, context=context_of(row), candidates=listed)["difference"]
    assert (told["logit"] > 0) == (first == 0)


def test_groups_and_another_baseline(service: Service, sample: Sample) -> None:
    """Groups are explained as one; missing values are another baseline."""
    row = sample.rows[3]
    groups = {"person": ["user_id", "country", "age"], "item": [*CANDIDATE]}
    found = of_row(service, row, groups=groups, baseline="missing")
    assert found["shapley"].keys() == {"person", "item", "time", "placement"}
    assert shares(found) == pytest.approx(found["logit"], abs=1e-4)
    assert found["baseline_logit"] != of_row(service, row)["baseline_logit"]


def test_columns_of_one(service: Service, sample: Sample) -> None:
    """Candidates come in every form of /rank."""
    row = sample.rows[4]
    columns = {name: [value] for name, value in candidate_of(row).items()}
    listed = explained(service, context=context_of(row), candidates={"features": columns})
    assert listed == of_row(service, row)


def test_items_by_id_are_explained_as_their_values(stored_service: Service, sample: Sample) -> None:
    """One id or two, in the order of the request; one that is not stored is told."""
    context = context_of(sample.rows[50])
    rows = {number: candidate_of(sample.rows[number]) for number in (7, 3)}
    by_id = explained(stored_service, context=context, candidates={"ids": [*rows]})
    listed = [{"id": number, "features": row} for number, row in rows.items()]
    assert [each["id"] for each in by_id["candidates"]] == [7, 3]
    assert by_id == explained(stored_service, context=context, candidates=listed)
    one = explained(stored_service, context=context, candidates={"ids": [3]})
    assert one == explained(stored_service, context=context, candidates=listed[1:])
    alone = explained(stored_service, context=context, candidate=rows[3])
    assert one["shapley"] == alone["shapley"]
    body = {"context": context, "candidates": {"ids": [3, STORED + 1]}}
    answer = stored_service.post("/explain", body)
    assert answer.status_code == 422, answer.text
    (detail,) = strict(answer.content)["error"]["details"]
    assert detail["path"] == "candidates.ids[1]"


def test_what_a_profile_has_is_explained(stored_service: Service, sample: Sample) -> None:
    """As values that were sent; the request's own win."""
    differ = 0
    for number, row in enumerate(sample.rows[:STORED]):
        sent = {"user_id": number, "placement": row["placement"]}
        by_profile = explained(stored_service, context=sent, candidate=candidate_of(row))
        whole = {**profile_of(row), **sent}
        assert by_profile == explained(stored_service, context=whole, candidate=candidate_of(row))
        other = {**sent, "age": None, "country": None}
        without = explained(stored_service, context=other, candidate=candidate_of(row))
        differ += without["shapley"] != by_profile["shapley"]
    assert differ > STORED // 2


def test_a_bundle_without_mean_rows_says_so(
    start_service: StartService, tiny_bundle: Path, sample: Sample, tmp_path: Path
) -> None:
    """Of format 1: 501 and what to do; with missing values as the baseline it explains."""
    service = start_service(as_format_1(tiny_bundle, tmp_path), explain="on")
    row = sample.rows[0]
    body = {"context": context_of(row), "candidate": candidate_of(row)}
    for asked in (body, {**body, "baseline": "mean"}):
        answer = service.post("/explain", asked)
        assert answer.status_code == 501, answer.text
        error = strict(answer.content)["error"]
        assert error["code"] == "not_offered"
        assert '"baseline": "missing"' in error["message"]
    found = of_row(service, row, baseline="missing")
    assert found["score"] == pytest.approx(service.predict([row])[0], abs=1e-6)
    assert shares(found) == pytest.approx(found["logit"], abs=1e-4)
    assert terms(found) == pytest.approx(found["logit"], abs=1e-4)
    assert service.metrics()['ctr_requests_total{outcome="501",route="explain"}'] == 2


WRONG = [
    ({}, "body", "missing required field `context`"),
    ({"context": {}}, "body", "expected either candidate or candidates"),
    ({"context": {}, "candidate": {}, "candidates": []}, "body", "expected either candidate or"),
    ({"context": {}, "candidate": 5}, "candidate", "Expected `object`"),
    ({"context": [], "candidate": {}}, "context", "Expected `object`"),
    ({"context": {"placement": "top"}, "candidate": {"price": "x"}}, "candidate.price", "number"),
    ({"context": {}, "candidate": {}}, "context.placement", "required"),
    ({"context": {}, "candidate": {"placement": "x"}}, "candidate.placement", "context field"),
    ({"context": {}, "candidates": []}, "candidates", "one or two candidates, got 0"),
    ({"context": {}, "candidates": [{}] * 3}, "candidates", "one or two candidates, got 3"),
    ({"context": {}, "candidates": {"all": True}}, "candidates.all", "one or two items"),
    ({"context": {}, "candidates": {"ids": [1, 2, 3]}}, "candidates.ids", "got 3"),
    ({"context": {}, "candidates": {"ids": [1]}}, "candidates", "no catalogue"),
    ({"context": {}, "candidate": {}, "baseline": "zero"}, "baseline", "Invalid enum"),
    ({"context": {}, "candidate": {}, "groups": {"a": []}}, "groups.a", "at least one"),
    ({"context": {}, "candidate": {}, "groups": {"a": ["pric"]}}, "groups.a[0]", "'price'"),
    ({"context": {}, "candidate": {}, "groups": {"a": ["age"], "b": ["age"]}}, "groups.b[0]", "in"),
    ({"context": {}, "candidate": {}, "groups": {"age": ["time"]}}, "groups.age", "another field"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "path", "problem"), WRONG)
def test_bad_input_is_named(service: Service, body: Any, path: str, problem: str) -> None:
    """422 with the place; a neighbour is still explained."""
    answer = service.post("/explain", body)
    assert answer.status_code == 422, answer.text
    [*details] = strict(answer.content)["error"]["details"]
    assert path in [each["path"] for each in details]
    assert any(re.search(re.escape(problem), each["problem"]) for each in details), details


def test_time_that_is_too_short_is_504(service: Service, sample: Sample) -> None:
    """An explanation obeys the deadline as a list does, and the next one is not held up."""
    row = sample.rows[0]
    body = {"context": context_of(row), "candidate": candidate_of(row)}
    answers = [
        service.post("/explain", body, X_Request_Timeout_Ms="1").status_code for _ in range(5)
    ]
    assert set(answers) <= {200, 429, 504}
    assert of_row(service, row)["method"] == "exact"


def test_the_admin_port_takes_a_key(admin: httpx.Client, service: Service, sample: Sample) -> None:
    """It answers as the public port does, and counts as it does."""
    row = sample.rows[0]
    body = {"context": context_of(row), "candidate": candidate_of(row)}
    assert admin.post("/admin/explain", json=body).status_code == 401
    headers = {"authorization": f"Bearer {KEY}"}
    answer = admin.post("/admin/explain", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert strict(answer.content) == of_row(service, row)
    wrong = admin.post("/admin/explain", json={"context": {}}, headers=headers)
    assert wrong.status_code == 422
    counted = service.metrics()
    assert counted['ctr_requests_total{outcome="422",route="explain"}'] >= 1
    assert counted["ctr_explained_rows_total"] >= 2 * 2 ** len(FIELDS)


def test_it_is_off_unless_it_is_asked_for(
    start_service: StartService, key_file: Path, sample: Sample
) -> None:
    """The public port has no such path; the admin port has it without the setting."""
    port = free_port()
    service = start_service(admin_port=port, admin_key_file=key_file)
    row = sample.rows[0]
    body = {"context": context_of(row), "candidate": candidate_of(row)}
    assert service.post("/explain", body).status_code == 404
    assert "/explain" not in strict(service.client.get("/openapi.json").content)["paths"]
    answer = httpx.post(
        f"http://127.0.0.1:{port}/admin/explain", content=json.dumps(body), timeout=60.0,
        headers={"authorization": f"Bearer {KEY}", "content-type": "application/json"},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(hashlib.sha256(KEY.encode()).hexdigest())
    return path


def test_the_document_has_it(service: Service) -> None:
    """The OpenAPI document names the fields of the bundle in the request."""
    document = strict(service.client.get("/openapi.json").content)
    operation = document["paths"]["/explain"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    assert content["schema"]["$ref"].endswith("/ExplainRequest")
    answer = service.post("/explain", content["example"])
    assert answer.status_code == 200, answer.text
    assert "501" in operation["responses"]
    schema = document["components"]["schemas"]["ExplainRequest"]["properties"]
    assert schema["context"]["$ref"].endswith("/Context")
