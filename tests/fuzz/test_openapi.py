"""The OpenAPI document keeps its word: whatever schemathesis makes of it is answered as it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.fuzz.open_inference import document
from tests.support.serving import ROOT, Service, environment

pytestmark = [pytest.mark.e2e, pytest.mark.long]

CONFIG = Path(__file__).with_name("schemathesis.toml")
HOOKS = "tests.fuzz.openapi_hooks"
SECONDS = 280
SHOWN = 4_000
KEPT = {"HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis")}
"""Tables of characters, which hypothesis otherwise makes in each directory: a second and a half."""


@pytest.mark.parametrize("unknown_fields", ["ignore", "error"])
def test_the_document_and_the_service_agree(
    start_service: StartService, tmp_path: Path, unknown_fields: str
) -> None:
    """Bodies, headers and methods of every kind: what is allowed is scored, what is not refused,
    and each answer has a status, a type, headers and a form that the document names.
    """
    limit = 5_000 if unknown_fields == "ignore" else 50
    service = start_service(
        unknown_fields=unknown_fields, max_instances=limit, max_candidates=limit
    )
    program = "import sys; from schemathesis.cli import schemathesis; schemathesis(sys.argv[1:])"
    ended = subprocess.run(
        [sys.executable, "-c", program, "--config-file", str(CONFIG), "--no-color", "run",
         f"{service.url}/openapi.json", "--seed", "7", "--max-examples", "40",
         "--continue-on-failure", "--generation-database", "none"],
        cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS,
        env=environment({**KEPT, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": HOOKS}),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-SHOWN:] + ended.stderr[-SHOWN:]
    counts = re.search(r"(\d+) generated, (\d+) passed", ended.stdout)
    assert counts, ended.stdout[-SHOWN:]
    assert counts[1] == counts[2]
    assert int(counts[1]) > 500
    assert "Operations:       18 selected / 18 total" in ended.stdout
    assert not [event for event in service.events() if event["level"] == "error"]


def test_the_service_speaks_the_open_inference_protocol(service: Service, tmp_path: Path) -> None:
    """Its answers have the protocol's forms, for every body that the protocol allows and others."""
    version = service.client.get("/model").json()["version"]
    (tmp_path / "v2.json").write_text(json.dumps(document(version)))
    program = "import sys; from schemathesis.cli import schemathesis; schemathesis(sys.argv[1:])"
    checks = "not_a_server_error,response_schema_conformance,content_type_conformance"
    ended = subprocess.run(
        [sys.executable, "-c", program, "--no-color", "run", "v2.json", "--url", service.url,
         "--checks", checks, "--phases", "examples,coverage,fuzzing", "--seed", "7",
         "--max-examples", "40", "--continue-on-failure", "--generation-database", "none"],
        cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, env=environment(KEPT),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-SHOWN:] + ended.stderr[-SHOWN:]
    assert "Operations:       9 selected / 9 total" in ended.stdout
    assert '"level": "error"' not in service.log()
