"""A list that cannot be scored in time is answered in part, if its caller wants that."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Sample, StartService
from tests.drills.faults.slow_service import SLOW, VARIABLE
from tests.support.samples import candidate_of, context_of
from tests.support.serving import Service, wait_until

pytestmark = pytest.mark.e2e
RUN_MS, RUN_ROWS, CANDIDATES, DEADLINE_MS = 60, 8, 1_000, 2_500


@pytest.fixture(scope="module")
def service(start_shared_service: StartService) -> Service:
    """A service that takes some seconds for a long list."""
    environment = {VARIABLE: str(RUN_MS)}
    settings = {"max_batch_rows": RUN_ROWS, "deadline_ms": DEADLINE_MS}
    return start_shared_service(None, environment, SLOW, **settings)


@pytest.mark.parametrize("columns", [False, True])
def test_the_first_candidates_are_ranked(service: Service, sample: Sample, columns: bool) -> None:
    """As they are ranked alone; nothing tells of parts where everything is scored."""
    found = [candidate_of(sample.rows[n % len(sample.rows)]) for n in range(CANDIDATES)]
    asked: dict[str, Any] = {"context": context_of(sample.rows[0]), "partial": True}

    def listed(count: int) -> Any:
        some = found[:count]
        if not columns:
            return [{"features": each} for each in some]
        names = {name for each in some for name in each}
        return {"features": {name: [each.get(name) for each in some] for name in names}}

    answer = service.client.post("/rank", json={**asked, "candidates": listed(CANDIDATES)})
    assert answer.status_code == 200, answer.text
    part = answer.json()
    assert part["of"] == CANDIDATES
    assert 0 < part["scored"] < CANDIDATES
    assert part["scored"] % RUN_ROWS == 0 or part["scored"] > RUN_ROWS
    assert len(part["ranking"]) == part["scored"]
    few = min(part["scored"], RUN_ROWS)
    # What is left of the long list is dropped after the run that was under way.
    whole: dict[str, Any] = {}

    def answered() -> bool:
        whole.update(_ranked(service, asked, listed(few)) or {})
        return bool(whole)

    wait_until(answered, "the queue is empty")
    assert whole.keys() == {"ranking", "version"}, whole
    expected = {each["index"]: each["score"] for each in whole["ranking"]}
    scores = {each["index"]: each["score"] for each in part["ranking"]}
    assert {index: scores[index] for index in expected} == pytest.approx(expected, rel=1e-4)
    assert sorted(scores.values(), reverse=True) == list(scores.values())
    assert set(scores) == set(range(part["scored"]))


def _ranked(service: Service, asked: dict[str, Any], candidates: Any) -> dict[str, Any] | None:
    answer = service.client.post("/rank", json={**asked, "candidates": candidates})
    return answer.json() if answer.status_code == 200 else None


def test_without_a_score_or_the_wish_it_is_an_error(service: Service, sample: Sample) -> None:
    """504 where nothing was scored, and where the request does not say ``partial``."""
    candidates = [{"features": candidate_of(sample.rows[0])}] * CANDIDATES
    asked = {"context": context_of(sample.rows[0]), "candidates": candidates}
    headers = {"X-Request-Timeout-Ms": "1000"}
    late = service.client.post("/rank", json=asked, headers=headers)
    assert late.status_code in (429, 504)
    headers = {"X-Request-Timeout-Ms": "1"}
    none = service.client.post("/rank", json={**asked, "partial": True}, headers=headers)
    assert none.status_code in (429, 504)
    few = {**asked, "candidates": candidates[:1]}
    wait_until(lambda: _ranked(service, few, few["candidates"]) is not None, "the queue is empty")
    assert service.client.post("/rank", json={**few, "partial": 1}).status_code == 422
