"""An engine that hangs, or whose thread ends, does not leave a service that only seems to work."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.scoring.batcher import INLINE_SECONDS
from tests.conftest import StartService
from tests.support.hanging_service import HANGING, QUICK, VARIABLE
from tests.support.samples import Sample
from tests.support.serving import Service, strict, wait_until, workers_of

pytestmark = pytest.mark.e2e
SECONDS = 2.0
"""Time that a run may take in these tests."""
DRAIN_SECONDS = 3.0
"""Time that a run that never ends is waited for."""


def service_of(
    path: Path, file: Path, tmp_path: Path, quick: float = INLINE_SECONDS, **settings: object
) -> Service:
    """A service that is expected to end by itself, so no fixture asks for its exit code."""
    service = Service(
        path, tmp_path / "log", {VARIABLE: str(file), QUICK: str(quick)}, HANGING,
        engine_hang_seconds=SECONDS, deadline_ms=60_000, drain_seconds=DRAIN_SECONDS, **settings,
    )  # fmt: skip
    service.wait_ready()
    return service


def _is_cut(service: Service, sample: Sample) -> bool:
    """Ask once; the process may end without an answer."""
    try:
        service.predict(sample.rows[:1])
    except httpx.TransportError:
        return True
    return False


def many(sample: Sample) -> dict[str, Any]:
    """A list long enough to run on the engine's thread."""
    rows = [{"features": {}} for _ in range(300)]
    return {"context": {"placement": sample.rows[0]["placement"]}, "candidates": rows}


@pytest.mark.parametrize("word", ["hang", "hang-on-thread"])
def test_a_hung_run_ends_a_single_process(
    tiny_bundle: Path, sample: Sample, tmp_path: Path, word: str
) -> None:
    """Waiting requests get 503 long before their deadline; then the process exits 1."""
    file = tmp_path / "does"
    service = service_of(tiny_bundle, file, tmp_path)
    try:
        file.write_text(word)
        with ThreadPoolExecutor(4) as callers:
            begun = time.monotonic()
            answers = [callers.submit(service.post, "/rank", many(sample)) for _ in range(4)]
            for answer in answers:
                assert answer.result().status_code == 503
                assert strict(answer.result().content)["error"]["code"] == "engine_failed"
            assert time.monotonic() - begun < 30, "not the deadline"
        assert service.exit_code() == 1
        assert "the engine hangs" in service.log()
    finally:
        service.stop()


def test_a_run_that_holds_the_loop_ends_the_process(
    tiny_bundle: Path, sample: Sample, tmp_path: Path
) -> None:
    """Where a quick run on the event loop hangs nothing can be answered; the process ends."""
    file = tmp_path / "does"
    # On a busy machine no run is as short as the loop takes one.
    service = service_of(tiny_bundle, file, tmp_path, quick=SECONDS)
    try:
        for _ in range(20):
            service.predict(sample.rows[:1])
        file.write_text("hang-on-loop")
        wait_until(lambda: _is_cut(service, sample), "a run on the loop", 30)
        assert service.exit_code() == 1
        assert "holds the event loop" in service.log()
    finally:
        service.stop()


def test_a_hung_worker_is_replaced(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """The other worker serves meanwhile; the hang is counted; the successor scores as before."""
    file = tmp_path / "does"
    service = start_service(
        env={VARIABLE: str(file)}, program=HANGING, workers=2,
        engine_hang_seconds=SECONDS, deadline_ms=60_000,
    )  # fmt: skip
    expected = service.predict(sample.rows[:3])
    hung, other = workers_of(service)
    file.write_text(f"hang {hung}")

    def worker_is_gone() -> bool:
        # New connections, so that both workers get some.
        for _ in range(10):
            caller = httpx.Client(base_url=service.url, verify=False)
            with suppress(httpx.TransportError), caller:
                answer = caller.post("/rank", json=many(sample), timeout=60)
                assert answer.status_code in (200, 503)
        return hung not in workers_of(service)

    wait_until(worker_is_gone, "the hung worker has ended", 60)
    assert other in workers_of(service)
    file.unlink()
    wait_until(lambda: len(workers_of(service)) == 2, "another worker is there", 60)
    wait_until(lambda: service.metrics()["ctr_engine_hangs_total"] == 1, "it is counted", 60)
    wait_until(lambda: service.client.get("/ready").status_code == 200, "it is ready", 60)
    assert service.predict(sample.rows[:3]) == expected


def test_a_system_exit_in_the_engine_is_a_failed_run(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """It fails its callers and ends neither the engine's thread nor the process."""
    file = tmp_path / "does"
    service = start_service(env={VARIABLE: str(file)}, program=HANGING)
    for path, body in (
        ("/predict", {"instances": sample.rows[:1]}),
        ("/rank", many(sample)),
    ):
        expected = service.post(path, body).content
        file.write_text("exit")
        for _ in range(2):
            answer = service.post(path, body)
            assert answer.status_code == 503
            assert strict(answer.content)["error"]["code"] == "engine_failed"
        file.unlink()
        assert service.post(path, body).content == expected
