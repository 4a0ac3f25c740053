"""Seconds to a validation AUC of 0.984 on Frappe, beside FuxiCTR with its published settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from app.features.layout import Layout
from app.features.spec import DataPart
from model.config import MANY_ROWS, SettingsFile
from model.data.dataset import Dataset
from model.data.input_files import InputFiles
from model.data.prepare import Prepared, prepare
from tests.bench.training.running import BFLOAT16, FUXICTR, PRODUCT, Figures, in_turn
from tests.bench.training.work import Rows, Work, write_rows
from tests.support.realdata import DATA, SPECS

FILES: Mapping[DataPart, str] = {
    "train": "train_reconstructed",
    "validation": "valid",
    "test": "test",
}
HOME = DATA / "frappe_x1"
TARGET = 0.984


def present() -> bool:
    """Return whether the data are there."""
    return all(_file(name).is_file() for name in FILES.values())


def _file(name: str) -> Path:
    return HOME / f"{name}.csv.gz"


def prepared() -> Prepared:
    """Read and encode the data as the product does."""
    parts: dict[DataPart, list[Path]] = {part: [_file(name)] for part, name in FILES.items()}
    return prepare(SPECS / "frappe.toml", InputFiles(parts=parts), progress=False)


def rows_of(layout: Layout, data: Dataset) -> Rows:
    """Return encoded rows as indices within each field."""
    slots = layout.context + layout.candidate
    first = np.array([slot.first for slot in slots], np.int32)
    index = np.concatenate([data.context, data.candidate], 1) - first
    return Rows(index, data.label, [slot.size for slot in slots])


def published(scratch: Path, threads: int, seed: int) -> Work:
    """Return the work with FuxiCTR's published settings."""
    return Work(
        str(scratch / "train"), threads, validation=str(scratch / "validation"), target=TARGET,
        epochs=100, batch_size=4096, embedding_size=10, hidden=(400, 400, 400),
        learning_rate=0.001, embedding_l2=0.05, dropout=0.2, batch_norm=True, seed=seed,
    )  # fmt: skip


def shipped(work: Work) -> Work:
    """Return the work with the settings that the product ships for its network."""
    config = SettingsFile.read(SPECS / "frappe.train.toml").config(work.network, MANY_ROWS)
    return replace(
        work, epochs=config.epochs, batch_size=config.batch_size, hidden=config.hidden,
        embedding_size=config.embedding_size, learning_rate=config.learning_rate,
        embedding_l2=config.embedding_l2, dropout=config.dropout,
        batch_norm=config.batch_norm, cross_layers=config.cross_layers,
    )  # fmt: skip


def works(scratch: Path, threads: int, seed: int) -> dict[str, Work]:
    """Return each library's work: FuxiCTR's published settings, and the shipped ones."""
    theirs = published(scratch, threads, seed)
    return {PRODUCT.name: shipped(theirs), FUXICTR.name: theirs}


def measure(
    scratch: Path, turns: int, threads: int, bfloat16: bool, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Return the seconds of each turn, each with a seed of its own, and their ratios.

    Raises:
        Failed: FuxiCTR cannot be measured.
    """
    data = prepared()
    for part in ("train", "validation"):
        write_rows(scratch / part, rows_of(data.vocabulary.layout, data.data[part]))
    found: dict[str, list[Figures]] = {}
    for turn in range(turns):
        work = works(scratch, threads, turn + 1)
        todo = {PRODUCT.name: partial(PRODUCT.run, work[PRODUCT.name])}
        if bfloat16:
            brief = replace(work[PRODUCT.name], precision="bfloat16")
            todo[BFLOAT16] = partial(PRODUCT.run, brief)
        todo[FUXICTR.name] = partial(FUXICTR.run, work[FUXICTR.name])
        for name, figures in in_turn(1, todo, tell, "frappe").items():
            found.setdefault(name, []).extend(figures)
    return summary(found)


def reached(figures: Figures) -> float | None:
    """Return the seconds to the first evaluation at the target, None if there was none."""
    for evaluation in figures["evaluations"]:
        if evaluation["auc"] >= TARGET:
            return float(evaluation["seconds"])
    return None


def summary(found: Mapping[str, Sequence[Figures]]) -> dict[str, Any]:
    """Return seconds to the target and the median ratios, none where one never got there."""
    seconds = {name: [reached(turn) for turn in turns] for name, turns in found.items()}
    ratios: dict[str, float | None] = {}
    for name, ours in seconds.items():
        if name == FUXICTR.name:
            continue
        pairs = list(zip(ours, seconds[FUXICTR.name], strict=True))
        whole = [(a, b) for a, b in pairs if a is not None and b is not None]
        ratios[name] = median(a / b for a, b in whole) if len(whole) == len(pairs) else None
    return {
        "target": TARGET,
        "seconds": seconds,
        "over_fuxictr": ratios,
        "turns": {name: [dict(turn) for turn in turns] for name, turns in found.items()},
    }


def table(found: Mapping[str, Any]) -> str:
    """Lay out the seconds as a Markdown table."""
    lines = [f"| library | seconds to AUC {TARGET}, each turn |", "|---|---:|"]
    for name, seconds in found["seconds"].items():
        cells = ", ".join("never" if value is None else f"{value:.1f}" for value in seconds)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)
