"""One process of tests.bench.sharded: steps of a trainer, and the memory that it takes."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from model.group import joined
from model.sharding.shard import Shard
from model.training.trainer import Trainer
from tests.bench.training.memory import anonymous
from tests.bench.training.with_product import dataset_of, layout_of, settings
from tests.bench.training.work import Work, read_rows

WARM = 2
"""Steps before the clock starts."""


def main() -> None:
    """Train for some steps and write the figures to a file of this process' number."""
    rows_at, place, sharded, steps = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
    torch.set_num_threads(1)
    rows = read_rows(rows_at)
    layout = layout_of(rows.sizes, round(len(rows.sizes) * 24 / 39))
    config = settings(Work(rows_at, threads=1))
    with joined() as group:
        before = anonymous(os.getpid())
        shard = Shard(layout.table_rows, group) if sharded else None
        trainer = Trainer(layout, dataset_of(rows, layout), config, group=group, shard=shard)
        batches = trainer.shuffled(WARM + steps)
        for _ in range(WARM):
            trainer.step(next(batches), config.learning_rate)
        group.wait()
        started = time.perf_counter()
        learned = 0
        for _ in range(steps):
            batch = next(batches)
            trainer.step(batch, config.learning_rate)
            learned += len(batch)
        group.wait()
        seconds = time.perf_counter() - started
        table = trainer.network.table
        moments = sum(value.nbytes for value in trainer._table.state().values())
        found = {
            "rows_per_second": learned / seconds, "held": len(table),
            "bytes": table.numel() * table.element_size() + moments,
            "anonymous": anonymous(os.getpid()) - before,
        }  # fmt: skip
    (place / f"{group.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
