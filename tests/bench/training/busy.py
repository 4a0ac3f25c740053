"""Rows per second of training beside other work, with the trainer's bound on spinning and without.

Two shapes: small steps, as of MovieLens-100k by its settings, and large ones, as of Criteo. All
trainers stay alive and take turns, so that what else the machine does meets each of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from model.threads import SPINS
from model.training.fit import fit
from tests.bench.training.criteo import draw_rows
from tests.bench.training.running import Failed
from tests.bench.training.with_product import dataset_of, layout_of, settings
from tests.bench.training.work import Rows, Work, read_rows, write_rows
from tests.support.environments import ROOT

BOUNDED, UNBOUNDED, SINGLE = "bounded", "unbounded", "one thread"
SPINCOUNTS = {BOUNDED: SPINS, UNBOUNDED: 300_000, SINGLE: SPINS}
"""The second is GNU OpenMP's own; one thread waits for nobody."""
SIZES = [943, 61, 2, 21, 795, 24, 7, 1682, 71, 18, 18, 18]
SMALL = Work(
    "", threads=1, usual=True, batch_size=2048, hidden=(128, 64), dropout=0.2, embedding_l2=0.05,
    batch_norm=True,
)  # fmt: skip
LARGE = Work("", threads=1)


def measure(
    scratch: Path, turns: int, threads: int, tell: Callable[[str], None], rows: int = 40_960
) -> dict[str, Any]:
    """Return for both shapes the median rates alone and beside one busy process a core.

    Raises:
        Failed: a trainer ends.
    """
    shapes = {"small steps": (drawn(rows), SMALL), "large steps": (draw_rows(rows), LARGE)}
    found = {}
    for number, (shape, (data, work)) in enumerate(shapes.items()):
        write_rows(scratch / f"busy{number}", data)
        given = replace(work, train=str(scratch / f"busy{number}"))
        files = {}
        for name in SPINCOUNTS:
            files[name] = scratch / f"busy{number}-{name}.json"
            own = replace(given, threads=1 if name == SINGLE else threads)
            files[name].write_text(own.to_json())
        found[shape] = summary(scenes(files, turns, partial(tell_of, tell, shape)))
    return found


def tell_of(tell: Callable[[str], None], shape: str, line: str) -> None:
    """Say how far a shape is."""
    tell(f"busy, {shape}: {line}")


def scenes(
    works: Mapping[str, Path], turns: int, tell: Callable[[str], None]
) -> dict[str, dict[str, list[float]]]:
    """Return every trainer's rates, turn by turn, alone and beside busy processes."""
    rates: dict[str, dict[str, list[float]]] = {}
    with trainers(works) as ask:
        for scene, count in (("alone", 0), ("beside", len(os.sched_getaffinity(0)))):
            found: dict[str, list[float]] = {name: [] for name in works}
            with busy(count):
                for turn in range(turns):
                    for name, measured in found.items():
                        measured.append(ask(name))
                        tell(f"{turn + 1}/{turns} {scene}, {name}: {measured[-1]:,.0f} rows/s")
            rates[scene] = found
    return rates


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
    lines = ["| | spinning | alone, rows/s | beside one busy process a core | kept |",
             "|---|---|---:|---:|---:|"]  # fmt: skip
    for shape, figures in found.items():
        rates = figures["rows_per_second"]
        for name, kept in figures["kept_beside_busy"].items():
            alone, beside = rates["alone"][name], rates["beside"][name]
            lines.append(f"| {shape} | {name} | {alone:,.0f} | {beside:,.0f} | {kept:.2f} |")
    return "\n".join(lines)


def drawn(rows: int) -> Rows:
    """Draw indices and clicks that have nothing to do with each other."""
    random = np.random.default_rng(1)
    index = np.stack([random.integers(0, size, rows) for size in SIZES], 1).astype(np.int32)
    return Rows(index, (random.random(rows) < 0.3).astype(np.uint8), SIZES)


@contextmanager
def trainers(works: Mapping[str, Path]) -> Iterator[Callable[[str], float]]:
    """Start and warm up a trainer for each work; yield what has one train and gives its rate."""
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", "tests.bench.training.busy", str(work)],
            cwd=ROOT, env=os.environ | {"GOMP_SPINCOUNT": str(SPINCOUNTS[name])},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name, work in works.items()
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
    layout = layout_of(rows.sizes, round(len(rows.sizes) * 24 / 39))
    train = dataset_of(rows, layout)
    validation = train.take(np.array([int(rows.label.argmin()), int(rows.label.argmax())]))
    for _ in sys.stdin:
        result = fit(layout, train, validation, settings(work), progress=False)
        print(result.rows_per_second, flush=True)


if __name__ == "__main__":
    main()
