"""Rows per second of training on a GPU, beside the CPU of the same machine.

The network and the shape of the rows are those of ``criteo``. With small batches a GPU is busy
mostly in starting kernels, so larger ones are measured too. A rate is that of the second epoch
alone, as the first one loads kernels. Both devices then learn from the same rows, and their losses
are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.training.criteo import SAME, WAYS, draw_rows
from tests.bench.training.running import PRODUCT, Figures, in_turn
from tests.bench.training.work import Work, write_rows

BATCHES = (4_096, 32_768)
PRECISIONS = ("float32", "bfloat16")
BESIDE = "float32 on the CPU"
CPU_SHARE = 8
"""Part of the rows that the CPU learns from: it has fewer steps to take, at the same cost each."""
LOSS_TOLERANCE = 0.002
"""Largest difference of the mean loss of an epoch, which rounding alone makes."""


def measure(
    scratch: Path, rows: int, turns: int, threads: int, device: str,
    tell: Callable[[str], None], batches: Sequence[int] = BATCHES,
) -> dict[str, Any]:  # fmt: skip
    """Return rates by way and batch size, and the losses of both devices.

    Raises:
        Failed: a training did not end.
    """
    write_rows(scratch / "rows", draw_rows(rows))
    write_rows(scratch / "few", draw_rows(max(max(batches), rows // CPU_SHARE)))
    few = Work(str(scratch / "few"), threads, epochs=2)
    rates = {}
    for way, settings in WAYS.items():
        for size in batches:
            beside = replace(few, batch_size=size, **settings)
            there = replace(beside, train=str(scratch / "rows"), device=device)
            works: dict[str, Callable[[], Figures]] = {
                each: partial(PRODUCT.run, replace(there, precision=each)) for each in PRECISIONS
            }
            works[BESIDE] = partial(PRODUCT.run, beside)
            title = f"{way}, batches of {size:,}"
            rates[title] = summary(in_turn(turns, works, tell, title))
    both = replace(few, batch_size=min(batches), **WAYS[SAME])
    losses = {each: PRODUCT.run(replace(both, device=each)) for each in (device, "cpu")}
    return {"rates": rates, "parity": parity(losses[device], losses["cpu"])}


def summary(found: Mapping[str, Sequence[Figures]]) -> dict[str, Any]:
    """Return medians of the rates, and each over the CPU's."""
    rates = {
        name: median(turn["last_rows_per_second"] for turn in turns)
        for name, turns in found.items()
    }
    return {
        "rows_per_second": rates,
        "over_cpu": {name: rate / rates[BESIDE] for name, rate in rates.items() if name != BESIDE},
        "devices": {name: turns[0]["device"] for name, turns in found.items()},
        "turns": {name: [dict(turn) for turn in turns] for name, turns in found.items()},
    }


def parity(there: Figures, here: Figures) -> dict[str, Any]:
    """Return the losses of one training on both devices, and whether rounding explains them."""
    difference = abs(there["train_loss"] - here["train_loss"])
    return {
        "train_loss": {"device": there["train_loss"], "cpu": here["train_loss"]},
        "difference": difference,
        "tolerance": LOSS_TOLERANCE,
        "within": difference <= LOSS_TOLERANCE,
    }


def table(found: Mapping[str, Any]) -> str:
    """Lay out the rates as a Markdown table, with the difference of the losses below."""
    lines = ["| work | precision | rows/s | over the CPU |", "|---|---|---:|---:|"]
    for title, figures in found["rates"].items():
        for name, rate in figures["rows_per_second"].items():
            ratio = figures["over_cpu"].get(name, 1.0)
            lines.append(f"| {title} | {name} | {rate:,.0f} | {ratio:.2f} |")
    difference = found["parity"]["difference"]
    return "\n".join([*lines, "", f"losses of both devices differ by {difference:.1e}"])
