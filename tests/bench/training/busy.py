"""Rows per second of training beside other work, with the trainer's bound on spinning and without.

The rows have the shape of MovieLens-100k and its settings: small steps with many barriers, where
waiting costs most. Both trainers stay alive and take turns, so that what else the machine does
meets both.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from model.threads import SPINS
from model.training.fit import fit
from tests.bench.training.running import Failed
from tests.bench.training.with_product import dataset_of, layout_of, settings
from tests.bench.training.work import Rows, Work, read_rows, write_rows
from tests.support.environments import ROOT

BOUNDED, UNBOUNDED = "bounded", "unbounded"
SPINCOUNTS = {BOUNDED: SPINS, UNBOUNDED: 300_000}
"""The latter is GNU OpenMP's own."""
SIZES = [943, 61, 2, 21, 795, 24, 7, 1682, 71, 18, 18, 18]
ROWS = 60_000
WORK = Work(
    "", threads=1, usual=True, batch_size=2048, hidden=(128, 64), dropout=0.2, embedding_l2=0.05,
    batch_norm=True,
)  # fmt: skip


def measure(
    scratch: Path, turns: int, threads: int, tell: Callable[[str], None], rows: int = ROWS
) -> dict[str, Any]:
    """Return median rates alone and beside one busy process a core, and their ratios.

    Raises:
        Failed: a trainer ends.
    """
    write_rows(scratch / "busy", drawn(rows))
    described = scratch / "busy.json"
    described.write_text(replace(WORK, train=str(scratch / "busy"), threads=threads).to_json())
    cores = len(os.sched_getaffinity(0))
    rates: dict[str, dict[str, list[float]]] = {}
    with trainers(described) as ask:
        for beside in (0, cores):
            found: dict[str, list[float]] = {name: [] for name in SPINCOUNTS}
            with busy(beside):
                for turn in range(turns):
                    for name in SPINCOUNTS:
                        found[name].append(ask(name))
                        told = f"{found[name][-1]:,.0f} rows/s"
                        tell(f"busy {turn + 1}/{turns}, {name} beside {beside}: {told}")
            rates["beside" if beside else "alone"] = found
    return summary(rates)


def summary(rates: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Return medians of rates and of each turn's ratio, and how loaded the machine is."""
    alone, beside = rates["alone"], rates["beside"]
    usual = median(alone[UNBOUNDED])
    return {
        "rows_per_second": {
            scene: {name: median(values) for name, values in found.items()}
            for scene, found in rates.items()
        },
        "alone_over_unbounded": median(
            ours / theirs for ours, theirs in zip(alone[BOUNDED], alone[UNBOUNDED], strict=True)
        ),
        "kept_beside_busy": {name: median(values) / usual for name, values in beside.items()},
        "load_average": os.getloadavg()[0],
        "turns": rates,
    }


def table(found: dict[str, Any]) -> str:
    """Lay out the rates as a Markdown table."""
    lines = ["| spinning | alone, rows/s | beside one busy process a core | kept |",
             "|---|---:|---:|---:|"]  # fmt: skip
    rates = found["rows_per_second"]
    for name, kept in found["kept_beside_busy"].items():
        lines.append(
            f"| {name} | {rates['alone'][name]:,.0f} | {rates['beside'][name]:,.0f} | {kept:.2f} |"
        )
    return "\n".join(lines)


def drawn(rows: int) -> Rows:
    """Draw indices and clicks that have nothing to do with each other."""
    random = np.random.default_rng(1)
    index = np.stack([random.integers(0, size, rows) for size in SIZES], 1).astype(np.int32)
    return Rows(index, (random.random(rows) < 0.3).astype(np.uint8), SIZES)


@contextmanager
def trainers(described: Path) -> Iterator[Callable[[str], float]]:
    """Start and warm up a trainer for each bound; yield what has one train and gives its rate."""
    words = [sys.executable, "-m", "tests.bench.training.busy", str(described)]
    started = {
        name: subprocess.Popen(
            words, cwd=ROOT, env=os.environ | {"GOMP_SPINCOUNT": str(count)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name, count in SPINCOUNTS.items()
    }  # fmt: skip

    def ask(name: str) -> float:
        process = started[name]
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            print(file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if not answer:
            raise Failed(f"the {name} trainer ended with {process.wait()}")
        return float(answer)

    try:
        for name in started:
            ask(name)
        yield ask
    finally:
        for process in started.values():
            process.kill()
            process.communicate()


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run so many processes that do nothing but use a core."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    """Train once for each line that comes, and answer with the rate."""
    work = Work.from_json(Path(sys.argv[1]).read_text())
    rows = read_rows(work.train)
    layout = layout_of(rows.sizes, 8)
    train = dataset_of(rows, layout)
    validation = train.take(np.array([int(rows.label.argmin()), int(rows.label.argmax())]))
    for _ in sys.stdin:
        result = fit(layout, train, validation, settings(work), progress=False)
        print(result.rows_per_second, flush=True)


if __name__ == "__main__":
    main()
