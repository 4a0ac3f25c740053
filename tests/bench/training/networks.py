"""AUC and log loss on Frappe's test part, each network beside FuxiCTR's of the same name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tests.bench.training import frappe
from tests.bench.training.running import FUXICTR, PRODUCT, in_turn
from tests.bench.training.work import Work, write_rows

NETWORKS = ("deepfm", "dcn_v2", "fibinet")
"""Those that FuxiCTR's package has the parts of."""
SHIPPED = f"{PRODUCT.name} as shipped"
WAYS = (FUXICTR.name, PRODUCT.name, SHIPPED)
"""FuxiCTR with its published settings, the product with the same, and with its own."""


def works(scratch: Path, threads: int, seed: int) -> dict[str, dict[str, Work]]:
    """Return the work of each network in each of the ways, which ends by each library's rule."""
    found: dict[str, dict[str, Work]] = {}
    for network in NETWORKS:
        theirs = replace(
            frappe.published(scratch, threads, seed), network=network, target=1.0,
            test=str(scratch / "test"),
        )  # fmt: skip
        found[network] = dict(zip(WAYS, (theirs, theirs, frappe.shipped(theirs)), strict=True))
    return found


def measure(scratch: Path, turns: int, threads: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return the figures of each turn by network and way, each turn with a seed of its own.

    Raises:
        Failed: FuxiCTR cannot be measured.
    """
    data = frappe.prepared()
    for part in frappe.FILES:
        write_rows(scratch / part, frappe.rows_of(data.vocabulary.layout, data.data[part]))
    found: dict[str, dict[str, list[Any]]] = {}
    for turn in range(turns):
        for network, ways in works(scratch, threads, turn + 1).items():
            todo = {
                way: partial((FUXICTR if way == FUXICTR.name else PRODUCT).run, work)
                for way, work in ways.items()
            }
            for way, figures in in_turn(1, todo, tell, network).items():
                found.setdefault(network, {}).setdefault(way, []).extend(figures)
    return found


def table(found: Mapping[str, Any]) -> str:
    """Lay out the test part's figures as a Markdown table: means over the turns."""
    lines = ["| network | trained by | AUC | log loss | seconds |", "|---|---|---:|---:|---:|"]
    for network, ways in found.items():
        for way, turns in ways.items():
            cells = [spread([turn[name] for turn in turns]) for name in ("auc", "log_loss")]
            cells.append(f"{mean(turn['seconds'] for turn in turns):.0f}")
            lines.append(f"| {network} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Show a mean, with the standard deviation where there are several values."""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
