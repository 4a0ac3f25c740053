"""What tests of swaps share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def bundles(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A directory that holds the older bundle."""
    shutil.copytree(tiny_bundle, tmp_path / tiny_bundle.name)
    return tmp_path
