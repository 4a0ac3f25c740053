"""One of several processes, which exchanges things with the others and tells what it found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.features.layout import Layout, Slot
from model.config import TrainConfig
from model.data.dataset import Dataset
from model.group import Group, joined
from model.networks import build
from model.training import fit

LAYOUT = Layout((Slot("user", "user", 1, 52),), (Slot("item", "item", 53, 52),), (), ())
ROWS = 1001


def exchanged(group: Group) -> dict[str, Any]:
    """Exchange everything that can be."""
    sums = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
    group.add(sums)
    shares = group.all(group.share(np.arange(10)))

    fit.PREDICT_ROWS = 100
    random = np.random.default_rng(1)
    data = Dataset(
        random.integers(1, 53, (ROWS, 1), np.int32), random.integers(53, 105, (ROWS, 1), np.int32),
        (), (), np.zeros(ROWS, np.uint8),
    )  # fmt: skip
    torch.manual_seed(1)
    network = build(LAYOUT, TrainConfig(hidden=(16,), init_std=0.5), 0.5)
    alone, together = fit.predict(network, data), fit.predict(network, data, group)
    return {
        "sum": [each.tolist() for each in sums],
        "all": [each.tolist() for each in group.all(np.full(group.rank, group.rank))],
        "first": [group.first_says(group.rank == 0), group.first_says(group.rank == 1)],
        "alike": [group.alike("x"), group.alike(str(group.rank))],
        "rows": len(together),
        "shares": sorted(np.concatenate(shares).tolist()),
        "logits": "the same" if alone.tobytes() == together.tobytes() else "others",
    }


if __name__ == "__main__":
    with joined() as processes:
        found = exchanged(processes)
        Path(sys.argv[1], f"{processes.rank}.json").write_text(json.dumps(found))
