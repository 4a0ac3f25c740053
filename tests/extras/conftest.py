"""What tests in the environments of shap and pandas, of helm, of Ray and in a browser share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Watched, chromium, library
from tests.support.chart import helm_or_skip
from tests.support.pages import Open
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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, for all tests of a file."""
    with chromium(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script that looks for what makes a page hard to use."""
    home = library("axe-core")
    return (home / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def open_page(browser: Any, axe: str) -> Iterator[Open]:
    """Opens pages; in none of them has anything gone wrong at the end of the test."""
    opened: list[tuple[Watched, str]] = []

    def start(
        url: str, key: str | None = None, width: int = 1400, scheme: str = "light"
    ) -> Watched:
        watched = Watched(browser, axe, width, scheme)
        opened.append((watched, url.split("/pages")[0].split("/docs")[0]))
        watched.open(url, key)
        return watched

    yield start
    for watched, host in opened:
        watched.close(host)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder of the test's own."""
    return tmp_path
