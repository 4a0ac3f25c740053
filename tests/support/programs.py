"""Programs that are no Python packages: tests that need one are skipped where it is absent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


def program(name: str) -> Path:
    """Return the path of an installed program; skip the test, by the program's name, without it.

    ``.ci/run`` installs what tests ask for; ``scripts/test`` installs nothing.
    """
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return Path(found)
