"""A log of two days, between which items come and go, and each network's bundle of the first."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from model.config import TrainConfig
from tests.support import samples
from tests.support.trained import trained

CONFIG = TrainConfig(
    embedding_size=4, hidden=(16, 8), batch_size=128, epochs=2, learning_rate=0.01, threads=1
)
SPEC = (
    samples.SPEC.replace('encoding = "log_squared"', 'encoding = "scaled"').replace(
        'encoding = "edges"\nedges = [0.25, 0.5, 0.75]', 'encoding = "scaled"'
    )
    + '[[crosses]]\nfields = ["user_id", "item_id"]\n'
    + '[[crosses]]\nfields = ["time.hour", "tags"]\n'
)
"""A number of each side is taken as it is, another one is in buckets; crosses are of both sides."""
ROWS = 8_000
MISSED = 4
"""So many items are there on one day alone, on each of the two."""


@dataclass(frozen=True)
class Days:
    """A spec and a log of each of two days."""

    spec: Path
    first: Path
    second: Path

    @classmethod
    def make(cls, directory: Path) -> Days:
        """Write them into a directory."""
        log = directory / "log.csv"
        samples.write_log(log, ROWS)
        head, *lines = log.read_text(encoding="utf-8").splitlines()
        place = head.split(",").index("item_id")
        items = sorted({line.split(",")[place] for line in lines})
        found = cls(directory / "spec.toml", directory / "first.csv", directory / "second.csv")
        found.spec.write_text(SPEC, encoding="utf-8")
        taste, luck = random.Random(1), random.Random(2)
        liked = {item: taste.uniform(0.05, 0.95) for item in items}
        lines = [
            f"{line.rpartition(',')[0]},{int(luck.random() < liked[line.split(',')[place]])}"
            for line in lines
        ]
        halves = lines[: ROWS // 2], lines[ROWS // 2 :]
        absent = items[:MISSED], items[-MISSED:]
        for path, rows, missed in zip((found.first, found.second), halves, absent, strict=True):
            kept = [row for row in rows if row.split(",")[place] not in missed]
            path.write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")
        return found

    def first_bundle(self, network: str, out: Path) -> Path:
        """Return the first day's bundle of a network, below ``out``."""
        config = replace(CONFIG, network=network, learning_rate=0.03)
        return trained(self.spec, self.first, config, out)
