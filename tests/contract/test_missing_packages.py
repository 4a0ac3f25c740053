"""Without the project's environment its commands say what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.markdown import ROOT


@pytest.mark.parametrize("module", ["app", "model"])
@pytest.mark.parametrize("words", [[], ["--help"], ["--version"]])
def test_a_line_says_what_to_do(module: str, words: list[str]) -> None:
    """A Python without the packages: one line and exit code 1, no traceback."""
    # -S leaves out the environment's packages, as another Python would.
    ended = subprocess.run(
        [sys.executable, "-S", "-m", module, *words], cwd=ROOT, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.count("\n") == 1
    assert "use ./ctr or .venv/bin/python" in ended.stderr


def test_other_errors_keep_their_traceback() -> None:
    """A module of the project that is missing is a fault of the project."""
    code = "import sys; from app.missing_packages import advise; sys.excepthook = advise; "
    for fault in ("import app.nowhere", "1 / 0"):
        ended = subprocess.run(
            [sys.executable, "-c", code + fault], cwd=ROOT, capture_output=True, text=True
        )
        assert ended.returncode == 1
        assert ended.stderr.startswith("Traceback")
