"""Metrics of every stage, and a line of the log for a slow request."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.drills.faults.slow_service import SLOW, VARIABLE
from tests.support.held_service import Held
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, Wire, strict, wait_until

pytestmark = pytest.mark.e2e

STAGES = ("read", "encode", "queue", "engine", "response")
RUN_MS = 30


@pytest.fixture
def slow(start_service: StartService) -> Service:
    """A service whose runs take long enough for its bound of a slow request."""
    return start_service(
        program=SLOW, env={VARIABLE: str(RUN_MS)}, slow_request_ms=RUN_MS // 2, max_batch_rows=4
    )


def lines_of(service: Service) -> list[dict[str, Any]]:
    """Return the log's lines of slow requests."""
    return [event for event in service.events() if event["message"] == "slow request"]


def told_ms(line: dict[str, Any]) -> dict[str, float]:
    """The stages of a slow request's line, in milliseconds."""
    return {stage: line[f"{stage}_ms"] for stage in STAGES if f"{stage}_ms" in line}


def test_every_stage_is_measured(slow: Service, sample: Sample) -> None:
    """Time spent in the engine is the engine's, and that of those who wait for it the queue's."""
    bodies = [json.dumps({"instances": [row]}).encode() for row in sample.rows[:12]]

    async def at_once() -> None:
        wires = [await Wire.open(slow.port) for _ in bodies]
        # It has nothing to do before all have been sent.
        slow.process.send_signal(signal.SIGSTOP)
        for wire, body in zip(wires, bodies, strict=True):
            wire.send("/predict", body)
        slow.process.send_signal(signal.SIGCONT)
        assert {(await wire.answer())[0] for wire in wires} == {200}
        for wire in wires:
            await wire.close()

    asyncio.run(at_once())
    found = slow.metrics()
    for stage in ("encode", "queue", "response"):
        assert found[f'ctr_{stage}_seconds_count{{route="predict"}}'] == len(bodies)
        assert found[f'ctr_{stage}_seconds_count{{route="rank"}}'] == 0
    runs = found["ctr_engine_seconds_count"]
    assert found["ctr_engine_seconds_sum"] >= runs * RUN_MS / 1000
    assert runs == sum(value for name, value in found.items() if name.startswith("ctr_batches_tot"))
    assert found['ctr_batches_total{closed="full"}'] >= 2
    waited = found['ctr_queue_seconds_sum{route="predict"}']
    assert waited >= RUN_MS / 1000, "of twelve rows at least four waited for a run of others"
    total = found['ctr_request_seconds_sum{route="predict",status="2xx"}']
    assert total >= waited + len(bodies) * RUN_MS / 1000


def test_a_slow_request_is_told_with_its_stages(slow: Service, sample: Sample) -> None:
    """One line with route, rows, version and stages that add up, and nothing it asked about."""
    row = sample.rows[0]
    secret = "never to be seen in a log"
    body = {
        "context": {**context_of(row), "country": secret},
        "candidates": [{"id": secret, "features": candidate_of(row)}] * 3,
    }
    answer = slow.post("/rank", body, X_Request_Id="mine-1")
    assert answer.status_code == 200
    wait_until(lambda: bool(lines_of(slow)), "it is told")
    (line,) = lines_of(slow)
    assert line["request"] == "mine-1"
    assert (line["route"], line["rows"], line["status"]) == ("rank", 3, 200)
    assert line["version"] == answer.json()["version"]
    stages = told_ms(line)
    assert set(stages) == set(STAGES)
    assert stages["engine"] >= RUN_MS
    assert sum(stages.values()) == pytest.approx(line["total_ms"], abs=0.01)
    assert secret not in slow.log()


def test_a_long_list_is_in_the_engine_up_to_its_last_row(slow: Service, sample: Sample) -> None:
    """Alone it waits for nobody, however many runs it takes."""
    row = sample.rows[0]
    candidates = [{"features": candidate_of(row)}] * 10
    assert slow.post("/rank", {"context": context_of(row), "candidates": candidates}).is_success
    wait_until(lambda: bool(lines_of(slow)), "it is told")
    (line,) = lines_of(slow)
    stages = told_ms(line)
    runs = slow.metrics()["ctr_engine_seconds_count"]
    assert runs == 3
    assert stages["engine"] >= runs * RUN_MS
    assert sum(stages.values()) == pytest.approx(line["total_ms"], abs=0.01)


def test_a_slow_refusal_ends_in_the_stage_that_took_its_time(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """A request that was given up before it had its scores is told, and counted, up to there."""
    held = Held(start_service, tmp_path, slow_request_ms=20)
    service = held.service
    held.hold()
    answer = service.post("/predict", {"instances": sample.rows[:1]}, X_Request_Timeout_Ms="1000")
    assert answer.status_code == 504
    held.release()
    wait_until(lambda: bool(lines_of(service)), "it is told")
    (line,) = lines_of(service)
    assert (line["status"], line["rows"]) == (504, 1)
    stages = told_ms(line)
    assert set(stages) == {"read", "encode", "queue", "engine"}
    assert stages["engine"] == max(stages.values())
    found = service.metrics()
    assert found['ctr_refused_requests_total{reason="deadline_passed",route="predict"}'] == 1
    assert found['ctr_queue_seconds_count{route="predict"}'] == 1
    assert found['ctr_response_seconds_count{route="predict"}'] == 0


def test_a_flood_of_slow_requests_is_no_flood_of_lines(slow: Service, sample: Sample) -> None:
    """A hundred slow requests are told in some lines, which say how many were left out."""
    body = json.dumps({"instances": sample.rows[:1]}).encode()

    async def rounds() -> None:
        wires = [await Wire.open(slow.port) for _ in range(20)]
        for _ in range(5):
            for wire in wires:
                wire.send("/predict", body)
            assert {(await wire.answer())[0] for wire in wires} <= {200, 429}
        for wire in wires:
            await wire.close()

    asyncio.run(rounds())
    wait_until(lambda: slow.post("/predict", body).status_code == 200, "it serves")
    answered = slow.metrics()['ctr_requests_total{outcome="200",route="predict"}']

    def all_told() -> bool:
        slow.post("/predict", body)
        nonlocal answered
        answered += 1
        lines = lines_of(slow)
        left_out = sum(line["left_out"] for line in lines)
        return len(lines) < answered / 4 and len(lines) + left_out >= answered

    wait_until(all_told, "lines and what they left out are all requests")


def test_no_request_is_slow_unless_asked(start_service: StartService, sample: Sample) -> None:
    """0 switches the lines off."""
    service = start_service(program=SLOW, env={VARIABLE: str(RUN_MS)}, slow_request_ms=0)
    service.predict(sample.rows[:1])
    assert lines_of(service) == []


def test_refusals_are_counted_by_reason(start_service: StartService, sample: Sample) -> None:
    """Each error of a scoring endpoint has its reason's counter, beside the status."""
    service = start_service(max_body_bytes=20_000, max_instances=5)
    row = sample.rows[0]
    service.post("/predict", b"{")
    service.post("/predict", b"x" * 20_001)
    service.post("/predict", {"instances": [row] * 6})
    service.post("/predict", {"instances": [{**row, "user_id": True}]})
    service.client.post("/predict", headers={"content-type": "a/b"})
    found = service.metrics()
    prefix = "ctr_refused_requests_total"
    assert {name: count for name, count in found.items() if name.startswith(prefix) and count} == {
        f'{prefix}{{reason="undecodable",route="predict"}}': 1,
        f'{prefix}{{reason="too_large",route="predict"}}': 2,
        f'{prefix}{{reason="invalid",route="predict"}}': 1,
        f'{prefix}{{reason="wrong_media_type",route="predict"}}': 1,
    }


def test_what_scores_nothing_is_counted_too(start_service: StartService) -> None:
    """Probes, scrapes, wrong paths and methods are requests of one route of their own."""
    service = start_service()
    before = service.metrics()
    for path in ("/live", "/model", "/nothing"):
        service.client.get(path)
    service.client.get("/predict")
    after = service.metrics()
    grown = {
        outcome: after[name] - before[name]
        for outcome in ("200", "404", "405", "503")
        if (name := f'ctr_requests_total{{outcome="{outcome}",route="operation"}}')
    }
    assert grown == {"200": 3, "404": 1, "405": 1, "503": 0}, "the last scrape counts itself"
    count = 'ctr_request_seconds_count{route="operation",status="4xx"}'
    assert after[count] - before[count] == 2


def test_values_stand_beside_their_share_in_training(
    start_service: StartService, sample: Sample, tiny_bundle: Path
) -> None:
    """Each slot has the training part's shares; scores are counted for the version they are of."""
    service = start_service()
    scores = service.predict(sample.rows[:50])
    found = service.metrics()
    statistics = json.loads((tiny_bundle / "manifest.json").read_bytes())["statistics"]
    for slot, trained in statistics.items():
        assert found[f'ctr_training_missing_share{{slot="{slot}"}}'] == trained["missing"]
        assert found[f'ctr_training_oov_share{{slot="{slot}"}}'] == trained["oov"]
    assert any(trained["missing"] for trained in statistics.values())
    version = f'version="{tiny_bundle.name}"'
    assert found[f"ctr_score_count{{{version}}}"] == 50
    assert found[f"ctr_score_sum{{{version}}}"] == pytest.approx(sum(scores), rel=1e-4)
    below = sum(score <= 0.3 for score in scores)
    assert found[f'ctr_score_bucket{{le="0.3",{version}}}'] == below


def test_metrics_can_be_off(start_service: StartService, service: Service, sample: Sample) -> None:
    """Then nothing is counted and /metrics is 404; scores are the same."""
    silent = start_service(metrics="off")
    assert silent.predict(sample.rows[:20]) == service.predict(sample.rows[:20])
    answer = silent.client.get("/metrics")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_drift_is_told_of_every_slot(start_service: StartService, sample: Sample) -> None:
    """All workers count, and any of them tells; a field that is always the same has drifted."""
    service = start_service(workers=2)
    alike = [{**row, "placement": sample.rows[0]["placement"]} for row in sample.rows[:600]]
    for _ in range(8):
        service.predict(alike)
    wait_until(lambda: drift_of(service)["slots"]["placement"]["drifted"], "it is noticed", 30)
    found = drift_of(service)
    assert found["version"] == strict(service.client.get("/ready").content)["version"]
    assert found["score"]["count"] > 0
    metrics = service.metrics()
    psi = metrics['ctr_drift_psi{slot="placement"}']
    assert psi > metrics['ctr_drift_psi_threshold{slot="placement"}']


def test_drift_can_be_off(start_service: StartService) -> None:
    service = start_service(drift_rows=0)
    assert service.client.get("/drift").status_code == 404
    assert not [name for name in service.metrics() if name.startswith("ctr_drift")]


def drift_of(service: Service) -> dict[str, Any]:
    answer = service.client.get("/drift")
    assert answer.status_code == 200, answer.text
    return dict(strict(answer.content))
