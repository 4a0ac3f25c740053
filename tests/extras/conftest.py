"""What tests in the environment of shap and pandas share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.environments import PeerProblem, environment
from tests.support.realdata import files
from tests.support.registry import skip_without_registry

PINNED = Path(__file__).with_name("shap.txt")
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
    try:
        return environment(PINNED) / "bin" / "python"
    except PeerProblem:
        wanted = PINNED.read_text(encoding="utf-8").splitlines()[-1]
        skip_without_registry(wanted, tmp_path_factory.mktemp("by-hand"))
        raise
