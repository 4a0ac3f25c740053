"""The application for any ASGI server: ``uvicorn --factory app.main:create_app``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENT_MS, Sample
from tests.support.serving import ROOT, START_SECONDS, Service, environment, free_port

UVICORN = (sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app")


def run_uvicorn(**variables: str) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    return subprocess.run(
        [*UVICORN, "--port", str(free_port())],
        cwd=ROOT,
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )


@pytest.mark.e2e
def test_uvicorn_serves_the_bundle_of_the_environment(
    tiny_bundle: Path, tmp_path: Path, service: Service, sample: Sample
) -> None:
    """Without arguments the application reads its settings from the environment; the server
    listens once the bundle is ready, and every endpoint answers as in ``python -m app``."""
    variables = {
        "CTR_BUNDLE": str(tiny_bundle), "CTR_MAX_INSTANCES": "9", "CTR_DEADLINE_MS": str(PATIENT_MS)
    }  # fmt: skip
    other = Service(None, tmp_path / "log", variables, UVICORN)
    try:
        assert other.wait_ready()["version"] == tiny_bundle.name
        rows = sample.rows[:9]
        assert other.predict(rows) == pytest.approx(service.predict(rows), abs=1e-6)
        assert other.post("/predict", {"instances": sample.rows[:10]}).status_code == 413
        for path in ("/model", "/metrics", "/openapi.json", "/docs"):
            assert other.client.get(path).status_code == 200
        assert other.post("/v1/models/x:predict", {"instances": rows}).status_code == 200
    finally:
        other.stop()


@pytest.mark.e2e
def test_a_bundle_that_cannot_be_loaded_ends_uvicorn(tiny_bundle: Path, tmp_path: Path) -> None:
    """One clear line, no traceback, and an exit code other than 0."""
    ended = run_uvicorn(CTR_BUNDLE=str(tmp_path / "nothing"))
    assert ended.returncode not in (0, None)
    (line,) = (line for line in ended.stderr.splitlines() if "cannot serve" in line)
    assert "nothing" in line
    assert "Traceback" not in ended.stderr


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("variables", "said"),
    [({}, "setting bundle: "), ({"CTR_BUNDLE": "x", "CTR_DEADLINE_MS": "soon"}, "deadline_ms: ")],
    ids=["none", "wrong"],
)
def test_a_wrong_setting_ends_uvicorn(variables: dict[str, str], said: str) -> None:
    """It is named, as by ``python -m app``."""
    ended = run_uvicorn(**variables)
    assert ended.returncode not in (0, None)
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
