"""Fixtures that tests of changing bundles share."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.support.admin import KEY, StartAdmin
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


@pytest.fixture
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key's hash, as ``sha256sum`` prints it."""
    path = tmp_path_factory.mktemp("keys") / "admin.sha256"
    path.write_text(f"{hashlib.sha256(KEY.encode()).hexdigest()}  -\n")
    return path


@pytest.fixture
def both(bundles: Path, other_bundle: Path) -> Path:
    """A directory with an older and a newer bundle."""
    shutil.copytree(other_bundle, bundles / other_bundle.name)
    return bundles


@pytest.fixture
def start_admin(start_service: StartService, key_file: Path) -> Iterator[StartAdmin]:
    start = StartAdmin(start_service, key_file)
    yield start
    for client in start.clients:
        client.close()
