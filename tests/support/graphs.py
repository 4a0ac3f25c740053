"""Layouts, random rows and engines for exported graphs of networks that no data have trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from app.features.layout import Layout, RowShape, Slot
from app.scoring.engine import Engine
from model.config import NETWORKS, TrainConfig
from model.data.dataset import Dataset
from model.export.graph import write_graph
from model.networks.network import Network
from tests.support.networks import indices, with_means

CONFIG = TrainConfig(embedding_size=4, hidden=(16, 8), init_std=0.5)
_LISTS = Layout(
    context=(Slot("user", "user", 1, 20), Slot("hour", "time", 21, 26)),
    candidate=(Slot("item", "item", 47, 30), Slot("price", "price", 77, 9)),
    context_lists=(Slot("seen", "seen", 86, 12),),
    candidate_lists=(Slot("tags", "tags", 98, 8), Slot("words", "words", 106, 40)),
)
_FLAT = Layout(
    context=(Slot("user", "user", 1, 20),),
    candidate=(Slot("item", "item", 21, 30),),
    context_lists=(),
    candidate_lists=(),
)
NUMBERS = with_means(
    replace(
        _LISTS,
        context=(*_LISTS.context, Slot("age", "age", 146, 3, scaled=True)),
        candidate=(*_LISTS.candidate, Slot("size", "size", 149, 3, scaled=True)),
    )
)
FLAT_NUMBERS = with_means(
    replace(
        _FLAT,
        candidate=(
            *_FLAT.candidate,
            *(Slot(n, n, f, 3, scaled=True) for n, f in (("a", 51), ("b", 54))),
        ),
    )
)
LAYOUT, FLAT = with_means(_LISTS), with_means(_FLAT)
DYNAMIC = replace(
    NUMBERS,
    candidate=(
        NUMBERS.candidate[0],
        replace(NUMBERS.candidate[1], dynamic=True),
        replace(NUMBERS.candidate[2], dynamic=True),
    ),
    candidate_lists=(
        replace(NUMBERS.candidate_lists[0], dynamic=True), NUMBERS.candidate_lists[1],
    ),
)  # fmt: skip
"""A dynamic field of each kind, before one that is not."""
FLAT_DYNAMIC = replace(
    FLAT_NUMBERS,
    candidate=(*FLAT_NUMBERS.candidate[:2], replace(FLAT_NUMBERS.candidate[2], dynamic=True)),
)
ATTENDING = with_means(
    replace(
        _LISTS,
        context_lists=(
            Slot("history", "history", 47, 30, shares="item"),
            Slot("seen", "seen", 86, 12, ages_of="history"),
        ),
    )
)  # fmt: skip
"""A list with the rows of a field of the candidate, and one with the ages of its values."""
LAYOUTS = {
    "attending": ATTENDING,
    "lists": LAYOUT,
    "flat": FLAT,
    "numbers": NUMBERS,
    "flat_numbers": FLAT_NUMBERS,
    "dynamic": DYNAMIC,
    "flat_dynamic": FLAT_DYNAMIC,
}
SPLIT_DYNAMIC = ("lr", "fm", "fnn", "wide_deep", "deepfm")
"""Networks whose graph computes the part of dynamic fields apart."""
PLACES = 3
"""Length of every list in these tests."""


def shape(single: tuple[Slot, ...], lists: tuple[Slot, ...]) -> RowShape:
    start = len(single)
    ranges = tuple((start + i * PLACES, start + (i + 1) * PLACES) for i in range(len(lists)))
    values = sum(slot.scaled for slot in single)
    return RowShape(start + PLACES * len(lists) + values, start, ranges, values)


def exported_below(network: Network, layout: Layout, directory: Path) -> tuple[Network, Path]:
    """Return a network and its exported graph, in a directory that is there from then on."""
    directory.mkdir(exist_ok=True)
    path = directory / "score.onnx"
    write_graph(network, layout, path)
    return network, path


def engine_of(path: Path, layout: Layout) -> Engine:
    return Engine(
        path,
        layout,
        shape(layout.context, layout.context_lists),
        shape(layout.candidate, layout.candidate_lists),
    )


def dataset(layout: Layout, rows: int, seed: int = 2) -> Dataset:
    """Random rows, means among their indices; lists have any number of values, none included."""
    rng = np.random.default_rng(seed)

    def single(slots: tuple[Slot, ...]) -> np.ndarray:
        if not slots:
            return np.zeros((rows, 0), np.int32)
        return np.stack([indices(rng, slot, rows) for slot in slots], 1)

    def lists(slots: tuple[Slot, ...]) -> tuple[np.ndarray, ...]:
        used = np.arange(PLACES) < rng.integers(0, PLACES + 1, (rows, 1))
        return tuple((indices(rng, slot, (rows, PLACES)) * used).astype(np.int32) for slot in slots)

    def values(slots: int) -> np.ndarray | None:
        return rng.normal(size=(rows, slots)).astype(np.float32) if slots else None

    return Dataset(
        single(layout.context),
        single(layout.candidate),
        lists(layout.context_lists),
        lists(layout.candidate_lists),
        np.zeros(rows, np.uint8),
        values(layout.context_values),
        values(layout.candidate_values),
    )


CASES = [
    *((name, layout) for layout in ("lists", "numbers") for name in NETWORKS),
    *((name, "flat") for name in NETWORKS), ("deepfm", "flat_numbers"),
    *((name, "attending") for name in ("din", "deepfm", "ffm", "fm")),
    *((name, "dynamic") for name in SPLIT_DYNAMIC), *((n, "flat_dynamic") for n in ("fm", "fnn")),
]  # fmt: skip
"""Networks and layouts; without lists, or pairs within a side, some take other ways."""
Case = tuple[str, Layout]
