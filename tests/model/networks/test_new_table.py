"""A part of a new table is what it is in a whole one, so that training starts alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from app.features.layout import Layout, Slot
from model.config import NETWORKS
from model.networks import build, weight_bytes
from model.networks.network import holding
from tests.support.networks import CONFIG, LAYOUT

MANY = Layout((Slot("a", "a", 1, 33_000),), (Slot("b", "b", 33_001, 35_003),), (), ())
"""More rows than are drawn at once, and not a multiple of anything."""


@pytest.mark.parametrize(
    ("network", "layout"),
    [*((name, LAYOUT) for name in NETWORKS), ("fm", MANY), ("dcn_v2", MANY), ("lr", MANY)],
)
def test_rows_are_as_random_as_in_a_whole_table(network: str, layout: Layout) -> None:
    """Bit for bit, as are the other weights, which are drawn after them."""
    config = replace(CONFIG, network=network)
    torch.manual_seed(5)
    whole = build(layout, config)
    rows = layout.table_rows
    for held in (range(rows), range(rows // 3), range(rows // 3, rows - 1), range(rows, rows)):
        torch.manual_seed(5)
        with holding(held):
            part = build(layout, config)
            size = weight_bytes(layout, config)
        assert torch.equal(part.table, whole.table[held.start : held.stop])
        assert len(part.learned) == len(held)
        for mine, theirs in zip(part.dense_parameters(), whole.dense_parameters(), strict=True):
            assert torch.equal(mine, theirs)
        lacking = (rows - len(held)) * whole.table.shape[1] * 4
        assert size == weight_bytes(layout, config) - lacking
    assert len(build(layout, config).table) == rows
