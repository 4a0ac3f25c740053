"""OPEN-07: an engine that fails gives no scores, is reported, and is rebuilt."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.support.failing_service import FAILING, VARIABLE
from tests.support.samples import Sample
from tests.support.serving import strict, wait_until

pytestmark = pytest.mark.e2e


def test_failing_runs_are_503_and_pass(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """Never a score; not ready after a few failures; well again by itself when runs succeed."""
    file = tmp_path / "fail"
    service = start_service(env={VARIABLE: str(file)}, program=FAILING)
    body = {"instances": sample.rows[:3]}
    expected = service.post("/predict", body).content

    def status(path: str) -> int:
        return service.client.get(path).status_code

    file.touch()
    for _ in range(2):
        answer = service.post("/predict", body)
        assert answer.status_code == 503
        assert strict(answer.content)["error"]["code"] == "engine_failed"
        assert status("/ready") == 200, "one failure may be an accident"
    for _ in range(8):
        assert service.post("/predict", body).status_code == 503
    assert status("/live") == 200
    assert "the engine fails" in service.client.get("/ready").text
    metrics = service.metrics()
    assert metrics["ctr_engine_failures_total"] == 10
    assert metrics['ctr_requests_total{outcome="503",route="predict"}'] == 10
    wait_until(lambda: "cannot be rebuilt" in service.log(), "it is tried", 30)
    file.unlink()
    wait_until(lambda: status("/ready") == 200, "it is ready again", 30)
    assert service.post("/predict", body).content == expected
    told = [event["message"] for event in service.events() if event["level"] == "error"]
    assert sum("failed 3 times in a row" in message for message in told) == 1


def test_a_success_between_failures_forgives_them(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """Only failures in a row make the service unready."""
    file = tmp_path / "fail"
    service = start_service(env={VARIABLE: str(file)}, program=FAILING)
    body = {"instances": sample.rows[:3]}
    for _ in range(4):
        file.touch()
        for _ in range(2):
            assert service.post("/predict", body).status_code == 503
        file.unlink()
        assert service.post("/predict", body).status_code == 200
        assert service.client.get("/ready").status_code == 200
    assert service.metrics()["ctr_engine_failures_total"] == 8
