"""Keys and logs do not get into the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.markdown import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "docker/README.md"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is not a checkout")
@pytest.mark.parametrize(
    "path", ["admin.key", "admin.sha256", "service.log", "logs/a.log", "docker/secrets/key"]
)
def test_secrets_and_logs_are_ignored(path: str) -> None:
    """git does not see them, wherever in the checkout they lie."""
    found = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, capture_output=True)
    assert found.returncode == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_documentation_keeps_keys_outside(page: Path) -> None:
    """A command that writes or reads a key names a place outside of the checkout."""
    for name in re.findall(r"(?<=[\s>])([^\s`]*admin\.(?:key|sha256))(?=[\s)|])", page.read_text()):
        assert name.startswith(("~/", "/", ">~/")), name
