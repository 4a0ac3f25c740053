"""Networks with weights far from their start, and random inputs for them."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from app.features.layout import Layout, Slot
from model.config import NETWORKS, TrainConfig
from model.networks import build
from model.networks.network import Network, NetworkInputs

CONFIG = TrainConfig(embedding_size=4, hidden=(8, 5), init_std=0.5)
LAYOUT = Layout(
    context=(Slot("user", "user", 1, 10), Slot("hour", "time", 11, 6)),
    candidate=(Slot("item", "item", 17, 12),),
    context_lists=(Slot("history", "history", 29, 8),),
    candidate_lists=(Slot("genres", "genres", 37, 6), Slot("tags", "tags", 43, 5)),
)
"""Three fields on each side, lists among them."""
SCALED = replace(
    LAYOUT,
    context=(*LAYOUT.context, Slot("age", "age", 48, 3, scaled=True)),
    candidate=(
        *LAYOUT.candidate,
        Slot("price", "price", 51, 3, scaled=True),
        Slot("length", "length", 54, 3, scaled=True),
    ),
)
"""The same, with numbers on both sides."""


def long_but(*at_once: str) -> list[Any]:
    """All networks as parameters, for tests that train each: those that are not named here are left
    to ``scripts/test-faults``."""
    assert set(at_once) <= set(NETWORKS)
    return [
        pytest.param(name, marks=() if name in at_once else pytest.mark.long) for name in NETWORKS
    ]


def with_means(layout: Layout) -> Layout:
    """Return a layout as bundles of format 2 have it: a mean for each slot, behind all values."""
    means = count(layout.encoded_rows)
    sides = ("context", "candidate", "context_lists", "candidate_lists")
    return Layout(
        **{
            side: tuple(replace(slot, mean=next(means)) for slot in getattr(layout, side))
            for side in sides
        }
    )


def indices(random: np.random.Generator, slot: Slot, size: int | tuple[int, int]) -> np.ndarray:
    """Return random indices of a slot, its mean among them if it has one."""
    places = [*range(slot.first, slot.first + slot.size)]
    return random.choice([*places, slot.mean] if slot.mean else places, size).astype(np.int32)


def trained(
    name: str, layout: Layout = LAYOUT, config: TrainConfig = CONFIG, seed: int = 7
) -> Network:
    """Return a network as training leaves it: all that is learnt, statistics too, is something."""
    torch.manual_seed(seed)
    network = build(layout, replace(config, network=name), 0.2)
    with torch.no_grad():
        network.table[1:].normal_(std=0.7)
        for parameter in network.dense_parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm1d):
                for statistic in (norm.running_mean, norm.bias):
                    assert statistic is not None
                    statistic.normal_()
                for statistic in (norm.running_var, norm.weight):
                    assert statistic is not None
                    statistic.uniform_(0.5, 2.0)
    return network.eval()


def inputs(
    contexts: int, rows: int, length: int, seed: int = 0, layout: Layout = LAYOUT
) -> NetworkInputs:
    """Return random indices, padding among them in the lists."""
    random = np.random.default_rng(seed)

    def single(slots: tuple[Slot, ...], count: int) -> Tensor:
        columns = [random.integers(s.first, s.first + s.size, count) for s in slots]
        index = np.stack(columns, axis=1) if columns else np.zeros((count, 0))
        return torch.from_numpy(index.astype(np.int32))

    def listed(slots: tuple[Slot, ...], count: int) -> list[Tensor]:
        columns = []
        for slot in slots:
            index = random.integers(slot.first, slot.first + slot.size, (count, length))
            columns.append(index * (random.random((count, length)) < 0.6))
        return [torch.from_numpy(column.astype(np.int32)) for column in columns]

    def values(slots: int, count: int) -> Tensor | None:
        found = random.normal(size=(count, slots)).astype(np.float32)
        return torch.from_numpy(found) if slots else None

    return NetworkInputs(
        single(layout.context, contexts),
        single(layout.candidate, rows),
        torch.from_numpy(random.integers(0, max(contexts, 1), rows).astype(np.int32)),
        listed(layout.context_lists, contexts),
        listed(layout.candidate_lists, rows),
        values(layout.context_values, contexts),
        values(layout.candidate_values, rows),
    )
