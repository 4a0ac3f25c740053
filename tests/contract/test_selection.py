"""Files of which a run takes no test are not imported; all others are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.selection import leaving_out, markers_of_all
from tests.support.starting import ROOT


@pytest.mark.parametrize(
    ("expression", "markers"),
    [
        ("", {"long", "extras"}),
        ("not e2e and not slow", {"e2e", "slow", "long", "extras"}),
        ("long", {"extras"}),
        ("not slow or e2e", {"long", "extras"}),
        ("not slow and (e2e or network)", {"long", "extras"}),
        ("not (slow and e2e)", {"long", "extras"}),
    ],
)
def test_markers_that_leave_a_test_out(expression: str, markers: set[str]) -> None:
    """A marker counts only where no other one could bring its tests back."""
    assert leaving_out(expression) == markers


@pytest.mark.parametrize(
    ("code", "markers"),
    [
        ("import pytest\n\npytestmark = pytest.mark.slow\n", {"slow"}),
        ("pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]\n", {"e2e", "timeout"}),
        ("@pytest.mark.slow\ndef test_one() -> None:\n    pass\n", set()),
        ("class TestOne:\n    pytestmark = pytest.mark.slow\n", set()),
    ],
)
def test_markers_of_all_tests_of_a_file(code: str, markers: set[str]) -> None:
    """What single tests or classes have is no marker of the file."""
    assert markers_of_all(code) == markers


def test_only_what_is_left_out_is_not_imported(tmp_path: Path) -> None:
    """A file that cannot be imported fails a run, except one that leaves out its tests."""
    (tmp_path / "test_works.py").write_text("def test_one():\n    pass\n")
    broken = "import pytest\nimport of_nothing\n\npytestmark = pytest.mark.slow\n"
    (tmp_path / "test_broken.py").write_text(broken)

    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        plugins = ["-p", "tests.support.selection", "-p", "no:cacheprovider"]
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *plugins, *words, str(tmp_path)],
            cwd=ROOT, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True, text=True,
        )  # fmt: skip

    quick = ran("-m", "not slow")
    assert "1 passed" in quick.stdout, quick.stdout
    whole = ran()
    assert whole.returncode == pytest.ExitCode.INTERRUPTED
    assert "of_nothing" in whole.stdout
