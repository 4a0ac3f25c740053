"""The 99th percentile of ``/predict`` at a steady rate, by the load generator."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.serving import ROOT, Service

RATE = 300
"""Requests a second."""


def p99_of_predict(service: Service, bundle: Path, seconds: int) -> float:
    """Offer golden requests of a bundle for some seconds; return the percentile in milliseconds."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "load.json"
        subprocess.run(
            [sys.executable, "-m", "tests.load", "--url", service.url, "--rate", str(RATE),
             "--duration", str(seconds), "--bundle", str(bundle), "--json", str(out)],
            cwd=ROOT, check=False, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return float(json.loads(out.read_text())["total"]["latency_ms"]["p99"])
