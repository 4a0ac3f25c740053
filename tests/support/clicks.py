"""Random rows whose label depends on whether user and item match in parity, or on a price."""

from __future__ import annotations

import numpy as np

from app.features.layout import Layout, Slot
from model.config import TrainConfig
from model.data.dataset import Dataset

LAYOUT = Layout(
    context=(Slot("user", "user", 1, 6),),
    candidate=(Slot("item", "item", 7, 6),),
    context_lists=(),
    candidate_lists=(Slot("genres", "genres", 13, 6),),
)
CONFIG = TrainConfig(
    embedding_size=4,
    hidden=(8,),
    dropout=0.1,
    oov_rate=0.0,
    batch_size=64,
    epochs=2,
    learning_rate=0.01,
    embedding_l2=0.001,
    threads=1,
    device="cpu",
)


def dataset(rows: int, seed: int = 0, users: int = 4) -> Dataset:
    """Return random rows whose label depends on whether user and item match in parity."""
    random = np.random.default_rng(seed)
    user = random.integers(0, users, rows)
    item = random.integers(0, 4, rows)
    genres = random.integers(15, 19, (rows, 3)) * (random.random((rows, 3)) < 0.7)
    label = ((user + item) % 2 == 0) ^ (random.random(rows) < 0.05)
    return Dataset(
        context=(user[:, None] + 3).astype(np.int32),
        candidate=(item[:, None] + 9).astype(np.int32),
        context_lists=(),
        candidate_lists=(genres.astype(np.int32),),
        label=label.astype(np.uint8),
    )


NUMBERS = Layout(
    context=(Slot("user", "user", 1, 6),),
    candidate=(Slot("item", "item", 7, 6), Slot("price", "price", 13, 3, scaled=True)),
    context_lists=(),
    candidate_lists=(),
)
MISSING_PRICE, OOV_PRICE, PRICE = 13, 14, 15


def priced(rows: int, seed: int) -> Dataset:
    """Rows that click where the price is high; every fifth has none, and clicks by chance."""
    random = np.random.default_rng(seed)
    base = dataset(rows, seed)
    value = random.normal(size=(rows, 1)).astype(np.float32)
    known = np.arange(rows)[:, None] % 5 > 0
    index = np.where(known, PRICE, MISSING_PRICE).astype(np.int32)
    return Dataset(
        base.context, np.hstack([base.candidate, index]), (), (),
        np.where(known, value > 0, base.label[:, None]).astype(np.uint8)[:, 0],
        None, np.where(known, value, 1).astype(np.float32),
    )  # fmt: skip
