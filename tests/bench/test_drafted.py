"""A drafted spec is compared with the shipped one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.drafted import Drafted, compare
from tests.support.realdata import SPECS, files

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def test_a_drafted_spec_ranks_movielens_as_the_shipped_one(tmp_path: Path) -> None:
    """Within thrice the spread of seeds along time, 0.02 of AUC; and both learn something."""
    data = files("movielens-100k", tmp_path)
    name = SPECS / "movielens-100k"
    settings = tmp_path / "short.toml"
    shipped = name.with_suffix(".train.toml").read_text(encoding="utf-8")
    settings.write_text(shipped.replace("epochs = 12", "epochs = 3"), encoding="utf-8")
    told = ("--label", "click", "--context", "user_id")
    found = compare(
        Drafted(data, told, data, name.with_suffix(".toml"), settings), tmp_path, seeds=1
    )
    assert len(found["shipped"]) == len(found["drafted"]) == 1
    assert min(*found["shipped"], *found["drafted"]) > 0.65
    assert found["drafted - shipped"] > -0.02
