"""Rows/s and memory a process of training with a sharded table, beside today's exchange.

Two processes (``--processes``) train a DeepFM in Criteo's shape, in turns: with a whole table each,
and with their parts of one. The environment with TorchRec is made in data/peers the first time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.training.criteo import draw_rows
from tests.bench.training.work import write_rows
from tests.support.environments import ROOT, environment
from tests.support.ranks import Ranks, ranks

PINNED = ROOT / "tests" / "extras" / "torchrec.txt"
WAYS = {"whole table": 0, "sharded": 1}
MIB = 2**20
Figures = dict[str, Any]


def measured(run: Ranks, place: Path, processes: int, sharded: int, steps: int) -> list[Figures]:
    """Return what each process measured of its own."""
    words = (place / "rows", place, sharded, steps)
    codes, _, told = run.run(processes, "tests.bench.sharded_fit", *words)
    if any(codes):
        raise SystemExit(told)
    return [json.loads((place / f"{rank}.json").read_text()) for rank in range(processes)]


def main() -> None:
    """Measure in turns, and print a table."""
    parser = argparse.ArgumentParser(prog="scripts/bench-sharded", description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="of 4,096 rows, after two others")
    options = parser.parse_args()
    home = environment(PINNED)
    found: dict[str, list[list[Figures]]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory(prefix="bench-sharded-") as name:
        place = Path(name)
        write_rows(place / "rows", draw_rows(4096 * (options.steps + 2)))
        with ranks(home / "bin" / "python", place) as run:
            for turn in range(options.turns):
                for way, sharded in WAYS.items():
                    each = measured(run, place, options.processes, sharded, options.steps)
                    found[way].append(each)
                    rate = each[0]["rows_per_second"]
                    print(f"bench: {turn + 1}/{options.turns} {way}: {rate:,.0f}", file=sys.stderr)
    rates = {way: [each[0]["rows_per_second"] for each in turns] for way, turns in found.items()}
    print("| table | rows/s | rows held | table and moments, MiB | memory of a process, MiB |")
    print("|---|---:|---:|---:|---:|")
    for way, turns in found.items():
        most = {key: max(each[key] for each in turns[-1]) for key in ("held", "bytes", "anonymous")}
        print(
            f"| {way} | {median(rates[way]):,.0f} | {most['held']:,} | {most['bytes'] / MIB:,.0f}"
            f" | {most['anonymous'] / MIB:,.0f} |"
        )
    ratios = [
        one / other for one, other in zip(*(rates[way] for way in reversed(WAYS)), strict=True)
    ]
    print(f"sharded over whole: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end")


if __name__ == "__main__":
    main()
