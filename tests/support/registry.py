"""Tests that download are skipped where pip itself, asked by hand, reaches no package registry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environments import PeerProblem, environment, node_environment


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


def environment_or_skip(pinned: Path, scratch: Path) -> Path:
    """Return the environment that ``pinned`` names; skip the test where no registry is reached."""
    try:
        return environment(pinned)
    except PeerProblem:
        lines = pinned.read_text(encoding="utf-8").splitlines()
        skip_without_registry([line for line in lines if "==" in line][-1], scratch)
        raise


def node_environment_or_skip(pinned: Path) -> Path:
    """Return the npm packages that ``pinned`` names; skip where npm reaches no registry."""
    try:
        return node_environment(pinned)
    except PeerProblem as problem:
        asked = subprocess.run(["npm", "ping"], capture_output=True, text=True, timeout=120)
        if asked.returncode:
            pytest.skip(f"no package registry can be reached: npm: {problem}")
        raise
