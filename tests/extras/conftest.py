"""What tests in the environments of shap and pandas, and of helm, share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chart import helm_or_skip
from tests.support.ray_cluster import Cluster, cluster
from tests.support.realdata import files
from tests.support.registry import environment_or_skip

PINNED = Path(__file__).with_name("shap.txt")
WITH_RAY = Path(__file__).with_name("ray.txt")
ROWS = 20_000


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of MovieLens."""
    directory = tmp_path_factory.mktemp("movielens")
    [log] = files("movielens-100k", directory)
    path = directory / "small.csv"
    path.write_text("".join(log.read_text().splitlines(keepends=True)[: ROWS + 1]))
    return path


@pytest.fixture(scope="session")
def shap_python(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has shap and pandas, beside what the product has; for real data."""
    return environment_or_skip(PINNED, tmp_path_factory.mktemp("by-hand")) / "bin" / "python"


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of helm."""
    return helm_or_skip(tmp_path_factory.mktemp("by-hand"))


@pytest.fixture(scope="session")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One Ray for all tests."""
    home = environment_or_skip(WITH_RAY, tmp_path_factory.mktemp("by-hand"))
    with cluster(home / "bin" / "python") as found:
        yield found
