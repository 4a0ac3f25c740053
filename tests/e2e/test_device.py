"""A service on a device: the scores are the same, and what becomes of it when the device fails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.serving.state import FAILURES
from tests.conftest import PATIENT_MS, StartService
from tests.support.device_service import VARIABLE, WITH_DEVICE
from tests.support.devices import ILLEGAL_ADDRESS, OUT_OF_MEMORY
from tests.support.samples import Sample
from tests.support.serving import Service, strict, wait_until, workers_of
from tests.support.swaps import POLL, Traffic, arrive

pytestmark = pytest.mark.e2e
ON_DEVICE = {"gpu_small_rows": 0, "gpu_batch_rows": 256}
CLOSE = 2e-6


def long_list(sample: Sample, rows: int = 700) -> dict[str, Any]:
    """A list of more rows than two of the largest buckets have."""
    candidates = [{"features": {}} for _ in range(rows)]
    return {"context": {"placement": sample.rows[0]["placement"]}, "candidates": candidates}


def test_scores_are_those_of_the_cpu(
    start_service: StartService, service: Service, sample: Sample, tmp_path: Path
) -> None:
    """Single rows, many callers at once and long lists; operators see the device."""
    on_device = start_service(
        env={VARIABLE: str(tmp_path / "says")}, program=WITH_DEVICE, **ON_DEVICE
    )
    rows = sample.rows[:300]
    expected = service.predict(rows)
    assert on_device.predict(rows) == pytest.approx(expected, rel=CLOSE)
    with ThreadPoolExecutor(8) as callers:
        alone = callers.map(lambda row: on_device.predict([row])[0], rows)
        assert list(alone) == pytest.approx(expected, rel=CLOSE)
    body = long_list(sample)
    found, wanted = (
        {row["index"]: row["score"] for row in strict(each.post("/rank", body).content)["ranking"]}
        for each in (on_device, service)
    )
    assert found == pytest.approx(wanted, rel=CLOSE)
    for path in ("/ready", "/model"):
        gpu = on_device.client.get(path).json()["gpu"]
        assert (gpu["tf32"], gpu["cuda_graphs"], gpu["cpu_below_rows"]) == ("off", "on", 1)
        assert gpu["buckets"] == [[64, 1], [64, 64], [256, 1], [256, 256]]
        assert service.client.get(path).json()["gpu"] is None


@pytest.mark.parametrize("provider", ["cuda", "auto"])
def test_out_of_memory_is_503_and_passes(
    start_service: StartService, sample: Sample, tmp_path: Path, provider: str
) -> None:
    """Never a wrong score; cuda is well again once there is memory, auto goes to the CPU."""
    file = tmp_path / "says"
    service = start_service(
        env={VARIABLE: str(file)}, program=WITH_DEVICE, provider=provider, **ON_DEVICE
    )
    body = {"instances": sample.rows[:3]}
    expected = service.predict(sample.rows[:3])
    file.write_text(OUT_OF_MEMORY)
    for _ in range(FAILURES):
        answer = service.post("/predict", body)
        assert answer.status_code == 503
        error = strict(answer.content)["error"]
        assert (error["code"], "out of memory" in error["message"]) == ("engine_failed", True)
    if provider == "cuda":
        wait_until(lambda: "cannot be rebuilt" in service.log(), "it is tried", 30)
        assert service.client.get("/ready").status_code == 503
        file.unlink()
    wait_until(lambda: service.client.get("/ready").status_code == 200, "it is ready", 30)
    assert service.predict(sample.rows[:3]) == pytest.approx(expected, rel=CLOSE)
    ready = service.client.get("/ready").json()
    assert (ready["gpu"] is None) is (provider == "auto")
    if provider == "auto":
        assert "out of memory" in ready["provider_fallback"]


def test_a_lost_device_ends_a_single_process(
    tiny_bundle: Path, sample: Sample, tmp_path: Path
) -> None:
    """Its callers get 503, and the process ends with exit code 1 and a line that says why."""
    file = tmp_path / "says"
    service = Service(
        tiny_bundle, tmp_path / "log", {VARIABLE: str(file)}, WITH_DEVICE,
        **ON_DEVICE, deadline_ms=PATIENT_MS,
    )  # fmt: skip
    try:
        service.wait_ready()
        file.write_text(ILLEGAL_ADDRESS)
        answer = service.post("/predict", {"instances": sample.rows[:3]})
        assert answer.status_code == 503
        assert strict(answer.content)["error"]["code"] == "engine_failed"
        assert service.exit_code() == 1
        told = [e["message"] for e in service.events() if e["level"] == "error"]
        assert any("cannot serve: the GPU is lost" in message for message in told)
        assert "Traceback" not in service.log()
    finally:
        service.stop()


def test_a_worker_that_lost_its_device_is_replaced(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """The other worker serves meanwhile, each answer is right or 503, the successor scores."""
    file = tmp_path / "says"
    service = start_service(env={VARIABLE: str(file)}, program=WITH_DEVICE, workers=2, **ON_DEVICE)
    rows = sample.rows[:3]
    expected = service.predict(rows)
    lost, other = workers_of(service)
    file.write_text(f"{lost}\n{ILLEGAL_ADDRESS}")

    def worker_is_gone() -> bool:
        # New connections, so that both workers get some.
        for _ in range(10):
            caller = httpx.Client(base_url=service.url, verify=False)
            with suppress(httpx.TransportError), caller:
                answer = caller.post("/predict", json={"instances": rows}, timeout=60)
                assert answer.status_code in (200, 503)
                if answer.status_code == 200:
                    assert strict(answer.content)["predictions"] == expected
        return lost not in workers_of(service)

    wait_until(worker_is_gone, "the worker has ended", 60)
    assert other in workers_of(service)
    file.unlink()
    wait_until(lambda: len(workers_of(service)) == 2, "another worker is there", 60)
    wait_until(lambda: service.client.get("/ready").status_code == 200, "it is ready", 60)
    assert service.predict(rows) == expected


def test_bundles_are_swapped_on_a_device(
    start_service: StartService, bundles: Path, tiny_bundle: Path, other_bundle: Path,
    rows: list[Any], expected: dict[str, list[float]], tmp_path: Path,
) -> None:  # fmt: skip
    """Under load every answer is by the version that it names."""
    env = {VARIABLE: str(tmp_path / "says")}
    service = start_service(bundles, env=env, program=WITH_DEVICE, **ON_DEVICE, **POLL)
    with Traffic(service, rows, expected) as traffic:
        traffic.wait_for(tiny_bundle)
        arrive(other_bundle, bundles)
        traffic.wait_for(other_bundle)
    assert not traffic.problems


def test_a_bundle_that_finds_no_memory_is_refused(
    start_service: StartService, bundles: Path, tiny_bundle: Path, other_bundle: Path,
    rows: list[Any], expected: dict[str, list[float]], tmp_path: Path,
) -> None:  # fmt: skip
    """The one in use serves on; here its small batches are the CPU's."""
    file = tmp_path / "says"
    service = start_service(
        bundles, env={VARIABLE: str(file)}, program=WITH_DEVICE, provider="cuda",
        gpu_small_rows=100, **POLL,
    )  # fmt: skip
    with Traffic(service, rows, expected) as traffic:
        traffic.wait_for(tiny_bundle)
        file.write_text(OUT_OF_MEMORY)
        arrive(other_bundle, bundles)
        wait_until(lambda: service.client.get("/ready").json()["refused_bundle"], "refused", 60)
        traffic.wait_answers(20)
    assert not traffic.problems
    assert "out of memory" in service.client.get("/ready").json()["refused_bundle"]
    assert set(traffic.seen) == {tiny_bundle.name}
