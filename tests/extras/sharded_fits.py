"""A program: fits of every network with a whole or a sharded table, for test_sharded.py.

The arguments are a directory, in which each process writes the losses of each step and the logits
afterwards, and whether the table is sharded, 0 or 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from model.config import NETWORKS, TrainConfig
from model.group import Group, joined
from model.sharding.shard import Shard
from model.training.evaluation import predict
from model.training.learning_rate import learning_rate
from model.training.mean_rows import set_mean_rows
from model.training.trainer import Trainer
from tests.support.clicks import LAYOUT, dataset

SIZES = (1, 2, 3)
STEPS = 12
BASE: dict[str, Any] = {
    "batch_size": 64, "embedding_size": 4, "hidden": (8,), "dropout": 0.0, "batch_norm": False,
    "oov_rate": 0.1, "embedding_l2": 1e-4, "learning_rate": 0.02, "epochs": 4, "threads": 1,
}  # fmt: skip


def config_of(network: str) -> TrainConfig:
    return TrainConfig(network=network, **BASE)


def fitted(network: str, group: Group, sharded: bool) -> dict[str, Any]:
    """Take some steps; return the losses, logits, and the rows that this process holds."""
    config, data = config_of(network), dataset(300)
    torch.manual_seed(config.seed)
    shard = Shard(LAYOUT.table_rows, group) if sharded else None
    trainer = Trainer(LAYOUT, data, config, group=group, shard=shard)
    losses = []
    for number, rows in zip(range(STEPS), trainer.shuffled(4), strict=False):
        losses += trainer.step(rows, learning_rate((number + 0.5) / STEPS, config))
    logits = predict(trainer.network, data, group)
    set_mean_rows(trainer.network, LAYOUT, data, shard)
    return {
        "losses": losses,
        "logits": logits.tolist(),
        "after": predict(trainer.network, data, group).tolist(),
        "held": len(trainer.network.table),
        "moments": len(trainer.state()[1]["table.mean"]),
        "parameters": trainer.network.parameter_count(),
        "learned": int(trainer.network.learned.sum()),
    }


def main() -> None:
    """Fit every network; write what each gave to a file of this process' number."""
    out, sharded = Path(sys.argv[1]), bool(int(sys.argv[2]))
    torch.set_num_threads(1)
    with joined() as group:
        found = {name: fitted(name, group, sharded) for name in NETWORKS}
        (out / f"{group.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
