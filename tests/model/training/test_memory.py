"""Trainings that do not fit into memory are refused before anything is allocated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.features.layout import Layout, Slot
from model.config import NETWORKS, TrainConfig
from model.data.dataset import Dataset
from model.group import Group
from model.networks import build, weight_bytes
from model.networks.crosses import CrossWeights, Operand, Pairs
from model.sharding.shard import Shard
from model.training import fit as fitting
from model.training import memory
from model.training.feed import CPU
from model.training.fit import fit, require_memory
from model.training.memory import available_memory
from model.training.trainer import TrainingError
from tests.support.networks import CONFIG, LAYOUT

pytestmark = pytest.mark.slow

ROWS = 2
DATA = Dataset(
    np.full((ROWS, 1), 3, np.int32),
    np.full((ROWS, 1), 4, np.int32),
    (),
    (),
    np.array([0, 1], np.uint8),
)


def test_this_machine_says_what_is_free() -> None:
    """The figure is one of bytes: of a machine that runs this, more than 16 MiB."""
    found = available_memory()
    assert found is None or 2**24 < found < 2**50


def test_a_group_with_less_than_the_machine_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smaller of both is free; a group without a limit does not count, nor what is absent."""
    for name, text in (
        ("meminfo", "MemTotal: 9 kB\nMemAvailable:       4 kB\n"),
        ("max", "max\n"),
        ("limit", "3000\n"),
        ("use", "1000\n"),
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUPS", ((tmp_path / "max", tmp_path / "use"),))
    assert available_memory() == 4096
    monkeypatch.setattr(memory, "GROUPS", ((tmp_path / "limit", tmp_path / "use"),))
    assert available_memory() == 2000
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "absent")
    monkeypatch.setattr(memory, "GROUPS", ())
    assert available_memory() is None


@pytest.mark.parametrize("name", NETWORKS)
def test_the_weights_are_counted_without_making_them(name: str) -> None:
    """The arrays that are made have the size that was foretold."""
    config = replace(CONFIG, network=name)
    assert weight_bytes(LAYOUT, config) == 4 * build(LAYOUT, config).parameter_count()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_table_beyond_memory_is_refused(name: str) -> None:
    """A trillion rows are refused at once, with what they would need."""
    layout = Layout(
        (Slot("user", "user", 1, 10**12),), (Slot("item", "item", 10**12 + 1, 4),), (), ()
    )
    with pytest.raises(TrainingError, match=rf"{name} over .* table rows needs .* GiB to train"):
        fit(layout, DATA, DATA, TrainConfig(network=name), progress=False)


def test_memory_on_a_cpu_is_that_of_four_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Just enough is enough, a part of the table needs less, and nothing is refused unknown."""
    free: list[int | None] = [4 * weight_bytes(LAYOUT, CONFIG)]
    monkeypatch.setattr(fitting, "available_memory", lambda: free[0])
    require_memory(LAYOUT, CONFIG)
    free[0] = 4 * weight_bytes(LAYOUT, CONFIG) - 1
    with pytest.raises(TrainingError, match="GiB to train"):
        require_memory(LAYOUT, CONFIG)
    require_memory(LAYOUT, CONFIG, (), CPU, Shard(LAYOUT.table_rows, Group(0, 2)))
    free[0] = None
    require_memory(LAYOUT, CONFIG)


def test_weights_of_pairs_need_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the rest of a Wide & Deep would just fit, it is refused with them."""
    config = replace(CONFIG, network="wide_deep")
    pairs = Pairs(Operand.find(LAYOUT, "user"), Operand.find(LAYOUT, "item"))
    crosses = CrossWeights(pairs, np.zeros(pairs.numbers, np.int32), 9)
    free = 4 * weight_bytes(LAYOUT, config)
    monkeypatch.setattr(fitting, "available_memory", lambda: free)
    require_memory(LAYOUT, config)
    with pytest.raises(TrainingError, match="GiB to train"):
        fit(LAYOUT, DATA, DATA, config, False, crosses=[crosses])
