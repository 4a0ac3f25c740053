"""The notebook of the documentation runs from top to bottom, and shows what it says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.support.notebooks import executed, outputs, shapes
from tests.support.realdata import files
from tests.support.registry import environment_or_skip

pytestmark = pytest.mark.extras
ROOT = Path(__file__).resolve().parents[2]
TOUR = ROOT / "docs" / "tour.ipynb"
PINNED = Path(__file__).with_name("notebook.txt")
LARGEST = 40_000
"""Bytes of the notebook with its outputs."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the notebook's kernel."""
    return environment_or_skip(PINNED, tmp_path_factory.mktemp("by-hand")) / "bin" / "python"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that looks like the repository's root after ``fetch``."""
    data = tmp_path / "root" / "data" / "movielens-100k"
    data.mkdir(parents=True)
    files("movielens-100k", data)
    docs = tmp_path / "root" / "docs"
    docs.mkdir()
    shutil.copy(TOUR, docs)
    (tmp_path / "root" / "model").symlink_to(ROOT / "model")
    return tmp_path / "root"


def test_the_tour_shows_what_it_says(python: Path, place: Path, tmp_path: Path) -> None:
    """Every cell runs; its outputs are the kept ones but for their numbers.

    The notebook that ran lies in data/tour.ipynb afterwards: copied over the kept one, it keeps
    new outputs.
    """
    out = ROOT / "data" / "tour.ipynb"
    executed(python, place / "docs" / TOUR.name, out, tmp_path / "home")
    assert any(outputs(out))
    assert shapes(out) == shapes(TOUR)
    equation = "".join(outputs(out)[-2][0]["text"])
    numbers = [float(each) for each in re.findall(r"-?\d+\.\d+", equation)]
    assert numbers[0] + numbers[1] == pytest.approx(numbers[2], abs=2e-3), equation


def test_the_kept_notebook_is_small_and_clean() -> None:
    """No messages of training, no path of a machine, cells numbered as they ran."""
    text = TOUR.read_text("utf-8")
    assert len(text) < LARGEST
    assert not re.search(r"/(?:home|root|tmp|work|Users)/|[Ww]arning", text)
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert not any(output.get("name") == "stderr" for cell in outputs(TOUR) for output in cell)
