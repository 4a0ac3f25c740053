"""Fixtures that tests of changing bundles share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.support.samples import Sample


@pytest.fixture(scope="module")
def rows(sample: Sample) -> list[Any]:
    return sample.rows[:50]


@pytest.fixture(scope="module")
def expected(
    start_shared_service: StartService, tiny_bundle: Path, other_bundle: Path, rows: list[Any]
) -> dict[str, list[float]]:
    """The scores of the rows by each bundle, out of services that only know that one."""
    found = {
        each.name: start_shared_service(each).predict(rows) for each in (tiny_bundle, other_bundle)
    }
    first, second = found.values()
    assert first != pytest.approx(second, abs=1e-3)
    return found


@pytest.fixture
def bundles(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A directory that holds the older bundle."""
    shutil.copytree(tiny_bundle, tmp_path / tiny_bundle.name)
    return tmp_path
