"""Tests that download are skipped where pip itself, asked by hand, reaches no package registry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def skip_without_registry(requirement: str, scratch: Path) -> None:
    """Skip the test if a plain ``pip download`` of a package fails.

    So a download of ours that fails where this one does not fails its test.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--no-deps", "--only-binary", ":all:", "-d", str(scratch), requirement],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"no package registry can be reached: {reason}")
