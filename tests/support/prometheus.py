"""A real Prometheus that scrapes services of tests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.programs import program
from tests.support.serving import free_port, wait_until

DIRECT: dict[str, Any] = {"trust_env": False, "verify": False, "timeout": 60}
"""No proxy, no certificates to read, which take as long as many requests, and time for it."""


@contextmanager
def prometheus(config: Mapping[str, Any], scratch: Path) -> Iterator[str]:
    """Run Prometheus with a configuration; yield its address. Skips the test without it."""
    path = program("prometheus")
    (scratch / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    port = free_port()
    with (scratch / "log").open("wb") as log:
        process = subprocess.Popen(
            [path, f"--config.file={scratch}/prometheus.yml", f"--storage.tsdb.path={scratch}/data",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(url), "Prometheus answers", 60)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", **DIRECT).status_code == 200
    except httpx.HTTPError:
        return False


def ask(url: str, expression: str) -> list[Any]:
    """Return the result of an expression; it must be one that Prometheus takes."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, **DIRECT)
    assert answer.status_code == 200, f"{expression}: {answer.text}"
    return list(answer.json()["data"]["result"])
