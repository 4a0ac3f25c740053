"""Rows/s and memory of ``predict`` in one process and on a Ray of this machine, in turn."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import polars as pl

from tests.bench.training.memory import anonymous
from tests.support.environments import ROOT, environment
from tests.support.ray_cluster import Cluster, cluster
from tests.support.samples import ROWS, Sample, train_tiny

PINNED = ROOT / "tests" / "extras" / "ray.txt"
MIB = 2**20
FILES = 8


class Measured(NamedTuple):
    """One run: seconds of the whole command, and the most memory of command and worker, in MiB."""

    seconds: float
    driver_mib: float
    worker_mib: float


def measured(ray: Cluster, words: list[object], workers: int | None) -> Measured:
    """Run the command to its end, looking at its memory and that of the workers."""
    if workers is not None:
        words = [*words, "--cluster", ray.address, "--workers", workers]
    driver = worker = 0
    start = time.monotonic()
    with subprocess.Popen(
        ray.command(*words), cwd=ROOT, env=ray.environment(), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        while process.poll() is None:
            driver = max(driver, anonymous(process.pid))
            for pid in ray.workers("score_block"):
                worker = max(worker, anonymous(pid))
            time.sleep(0.05)
        _, stderr = process.communicate()
    if process.returncode:
        raise SystemExit(stderr)
    return Measured(time.monotonic() - start, driver / MIB, worker / MIB)


def main() -> None:
    """Make data and a bundle, measure, compare the scores, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scores_on_ray")
    parser.description = __doc__
    parser.add_argument("--rows", type=int, default=1_200_000, help="of the sample's shape")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    home = environment(PINNED)
    figures: list[dict[str, object]] = []
    with TemporaryDirectory(prefix="bench-scores-") as name, cluster(home / "bin/python") as ray:
        scratch = Path(name)
        sample = Sample.make(scratch)
        bundle = train_tiny(sample, scratch / "bundles")
        log = pl.read_csv(sample.data, infer_schema=False)
        each = options.rows // FILES
        files = [scratch / f"{number}.csv" for number in range(FILES)]
        for path in files:
            pl.concat([log] * -(-each // ROWS))[:each].write_csv(path)
        print(f"bench: {each * FILES:,} rows are written", file=sys.stderr)
        print(f"{'where':20}{'rows/s, whole command':>24}{'driver':>12}{'worker':>12}")
        expected: pl.DataFrame | None = None
        for workers in (None, *options.workers):
            out = scratch / ("scores.parquet" if workers is None else f"by-{workers}")
            words: list[object] = ["predict", bundle, *files, "--out", out]
            took = measured(ray, words, workers)
            scores = pl.read_parquet(out if workers is None else out / "part-*.parquet")
            expected = scores if expected is None else expected
            if not scores.equals(expected):
                raise SystemExit("the scores differ")
            where = "one process" if workers is None else f"Ray, {workers} workers"
            worker = "" if workers is None else f"{took.worker_mib:.0f} MiB"
            print(
                f"{where:20}{each * FILES / took.seconds:>24,.0f}{took.driver_mib:>8.0f} MiB"
                f"{worker:>12}"
            )
            figures.append({"workers": workers, **took._asdict()})
    if options.json:
        options.json.write_text(json.dumps({"rows": each * FILES, "figures": figures}, indent=1))
    load = os.getloadavg()
    print(f"load {load[0]:.1f} on {os.cpu_count()} cores at the end; all scores had the same bits")


if __name__ == "__main__":
    main()
