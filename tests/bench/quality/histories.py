"""What histories add on MovieLens-100k along time: DeepFM without and with them, and DIN.

All three learn from the same rows with the shipped settings and are measured on the same test rows,
over several seeds: `python -m model compare`, twice. The table goes to standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from model.compare import MEMBERS, Record
from model.compare_report import by_network, spread
from tests.bench.quality.__main__ import ROOT, command

SPECS = ROOT / "model" / "specs"
PLACES = 50


class Compared(NamedTuple):
    """A network, the spec that it saw, and the records of its seeds."""

    network: str
    spec: str
    records: Sequence[Record]


RUNS = (
    ("without histories", "movielens-100k", ("deepfm",)),
    ("with histories", "movielens-100k-histories", ("deepfm", "din")),
)


def compare(data: Path, seeds: int, out: Path) -> list[Compared]:
    """Compare the networks over so many seeds; what ``out`` has already stays."""
    found = []
    for title, spec, networks in RUNS:
        place = out / spec
        command(
            "compare", SPECS / f"{spec}.toml", data, "--networks", ",".join(networks),
            "--seeds", seeds, "--split", "time", "--out", place,
        )  # fmt: skip
        paths = sorted((place / MEMBERS).glob("*.json"))
        records = [msgspec.json.decode(path.read_bytes(), type=Record) for path in paths]
        groups = by_network(record for record in records if record.row.seed <= seeds)
        found += [Compared(network, title, groups[network]) for network in networks]
    return found


def table(compared: Sequence[Compared]) -> str:
    """Lay the means over the seeds out as a Markdown table."""
    lines = [
        "| network | fields | seeds | AUC | log loss | training, rows/s | 1,000 candidates, ms |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for network, spec, records in compared:
        rows = [record.row for record in records]
        lines.append(
            f"| {network} | {spec} | {len(rows)} | {spread([row.auc for row in rows], '.4f')}"
            f" | {spread([row.log_loss for row in rows], '.4f')}"
            f" | {sum(row.train_rows_per_second for row in rows) / len(rows):,.0f}"
            f" | {sum(row.score_1000_us for row in rows) / len(rows) / 1e3:.2f} |"
        )
    return "\n".join(lines)


def main(data: Path, seeds: int, out: Path) -> None:
    """Run the comparison and print its table."""
    print(table(compare(data, seeds, out)), file=sys.stdout)
