"""Memory and rate of each stage of ``train`` over files that need not fit into memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from app.bundle.bundle import Bundle
from model.config import SettingsFile
from model.networks import weight_bytes
from model.training.fit import COPIES
from tests.bench.training.running import Failed
from tests.support.environments import ROOT
from tests.support.realdata import SPECS

FILES = 10
SPEC = SPECS / "criteo.toml"
SETTINGS = {
    "hidden": [400, 400, 400], "batch_size": 4096, "epochs": 1, "evaluations_per_epoch": 1,
    "embedding_l2": 0.0,
}  # fmt: skip
STAGES = (
    ("read", r"^read [\d,]+ rows in ([\d.]+) s"),
    ("count", r"^learned the vocabulary in ([\d.]+) s"),
    ("encode", r"^encoded in ([\d.]+) s"),
    ("train", r"^trained in ([\d.]+) s"),
)
"""Beginnings of the lines that the command prints after each stage; then it scores and exports."""
EXPORT = "export"
_WATCH_SECONDS = 0.05


TRAIN = """
import sys
from model.data import prepare

prepare.LINE_SECONDS = 0.0
from model.__main__ import main

sys.exit(main())
"""
"""``python -m model``, but short stages print their line too."""


class Watched(NamedTuple):
    """Seconds and the most memory of each stage, in bytes, and the bundle."""

    seconds: dict[str, float]
    peak: dict[str, int]
    bundle: Path


def measure(scratch: Path, rows: int, threads: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Write Criteo-shaped Parquet files, train once over them, and return the figures.

    Memory is what belongs to the process alone (RssAnon): mapped files are given back to the
    system when it wants them.

    Raises:
        Failed: the command did not end well.
    """
    files = [scratch / f"{number}.parquet" for number in range(FILES)]
    for number, path in enumerate(files):
        made(rows // FILES, number).write_parquet(path)
        tell(f"memory: {path.name} of {FILES} is written")
    found = watched(scratch, files, threads, tell)
    bundle = Bundle.open(found.bundle)
    config = SettingsFile({**SETTINGS}).config("deepfm", rows)
    own = COPIES * weight_bytes(bundle.vocabulary.layout, config)
    split = {"read": rows, "count": rows, "encode": rows, "train": rows * 8 // 10}
    return {
        "rows": rows,
        "file_bytes": sum(path.stat().st_size for path in files),
        "table_rows": bundle.vocabulary.layout.table_rows,
        "model_bytes": own,
        "peak_bytes": found.peak,
        "beyond_model_bytes": max(
            peak - (own if stage in ("train", EXPORT) else 0) for stage, peak in found.peak.items()
        ),
        "rows_per_second": {s: split[s] / t for s, t in found.seconds.items() if s in split},
    }


def made(rows: int, seed: int) -> pl.DataFrame:
    """Return rows like Criteo's: 13 counts, 26 hexadecimal texts of Zipf's law, a click in four."""
    random = np.random.default_rng(seed)

    def zipf(values: int) -> pl.Series:
        return pl.Series((values ** random.random(rows) - 1).astype(np.int64))

    columns: dict[str, pl.Series] = {"label": pl.Series((random.random(rows) < 0.25).astype("i1"))}
    for number in range(13):
        seen = pl.Series(random.random(rows) >= 0.2)
        columns[f"I{number + 1}"] = zipf(5_000).zip_with(seen, pl.Series([None], dtype=pl.Int64))
    for number in range(26):
        size = (300_000, 200_000, 150_000, 100_000, 50_000)[number] if number < 5 else 10_000
        columns[f"C{number + 1}"] = pl.select(
            pl.format("{}", zipf(size) * 2_654_435_761 % 2**32)
        ).to_series()
    return pl.DataFrame(columns)


def watched(scratch: Path, files: list[Path], threads: int, tell: Callable[[str], None]) -> Watched:
    """Run ``train`` over the files and look at its memory all the while."""
    settings, log = scratch / "settings.toml", scratch / "log"
    words = SETTINGS | {"threads": threads}
    settings.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in words.items()))
    command = [sys.executable, "-c", TRAIN, "train", SPEC, *files, "--config", settings,
               "--cache", scratch / "cache", "--out", scratch / "bundles"]  # fmt: skip
    seconds: dict[str, float] = {}
    peak: dict[str, int] = {}
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        while process.poll() is None:
            said = log.read_text(errors="replace").replace("\r", "\n")
            for stage, pattern in STAGES:
                if stage not in seconds and (ended := re.search(pattern, said, re.MULTILINE)):
                    seconds[stage] = float(ended[1])
                    tell(f"memory: {stage} took {seconds[stage]:.1f} s")
            now = next((stage for stage, _ in STAGES if stage not in seconds), EXPORT)
            peak[now] = max(peak.get(now, 0), anonymous(process.pid))
            time.sleep(_WATCH_SECONDS)
        assert process.stdout is not None
        path = process.stdout.read().strip()
    if process.returncode:
        raise Failed(f"train: {log.read_text().splitlines()[-1]}")
    return Watched(seconds, peak, Path(path))


def anonymous(pid: int) -> int:
    """Return a process' memory that no file stands behind, 0 if it has ended."""
    try:
        found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def table(found: dict[str, Any]) -> str:
    """Return the figures as a table."""
    lines = [
        f"{found['rows']:,} rows, {found['file_bytes'] / 2**20:,.0f} MiB of Parquet,"
        f" {found['table_rows']:,} table rows; the model with Adam's moments and its best copy"
        f" {found['model_bytes'] / 2**20:,.0f} MiB",
        f"{'stage':10}{'rows/s':>12}{'peak MiB':>10}",
    ]
    for stage, peak in found["peak_bytes"].items():
        rate = found["rows_per_second"].get(stage)
        lines.append(f"{stage:10}{f'{rate:,.0f}' if rate else '':>12}{peak / 2**20:>10,.0f}")
    lines.append(f"at most {found['beyond_model_bytes'] / 2**20:,.0f} MiB beyond the model")
    return "\n".join(lines)
