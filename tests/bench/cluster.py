"""Rows/s and memory of ``prepare`` in one process and on a Ray of this machine, in turn."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from model.array_files import INDEX
from tests.bench.training.memory import FILES, SPEC, anonymous, made
from tests.support.environments import ROOT, environment
from tests.support.ray_cluster import Cluster, cluster

PINNED = ROOT / "tests" / "extras" / "ray.txt"
MIB = 2**20


class Measured(NamedTuple):
    """One run: seconds of the command and of its work, and the most memory, in MiB."""

    seconds: float
    work_seconds: float
    driver_mib: float
    worker_mib: float | None


def measured(ray: Cluster, files: list[Path], cache: Path, workers: int | None) -> Measured:
    """Run the command to its end, looking at its memory and that of the workers."""
    words = ["prepare", SPEC, *files, "--cache", cache]
    if workers is not None:
        words += ["--cluster", ray.address, "--workers", workers]
    driver, worker = 0, 0
    start = time.monotonic()
    with subprocess.Popen(
        ray.command(*words), cwd=ROOT, env=ray.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        while process.poll() is None:
            driver = max(driver, anonymous(process.pid))
            for pid in ray.workers():
                worker = max(worker, anonymous(pid))
            time.sleep(0.05)
        _, stderr = process.communicate()
    seconds = time.monotonic() - start
    if process.returncode:
        raise SystemExit(stderr)
    found = re.search(r"read and encoded: [\d,]+ rows in ([\d.]+) s", stderr)
    assert found is not None, stderr
    mib = worker / MIB if workers is not None else None
    return Measured(seconds, float(found[1]), driver / MIB, mib)


def main() -> None:
    """Make data, measure, compare the results, and print a table."""
    parser = argparse.ArgumentParser(prog="scripts/bench-cluster", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of Criteo's shape")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    home = environment(PINNED)
    figures: list[dict[str, object]] = []
    with TemporaryDirectory(prefix="bench-cluster-") as name, cluster(home / "bin/python") as ray:
        scratch = Path(name)
        files = [scratch / f"{number}.parquet" for number in range(FILES)]
        for number, path in enumerate(files):
            made(options.rows // FILES, number).write_parquet(path)
        print(f"bench: {options.rows:,} rows are written", file=sys.stderr)
        expected = None
        print(
            f"{'where':20}{'rows/s':>10}{'rows/s, whole command':>24}{'driver':>10}{'worker':>10}"
        )
        for workers in (None, *options.workers):
            cache = scratch / "cache"
            each = measured(ray, files, cache, workers)
            [entry] = cache.iterdir()
            # It has the hashes of all files, which the command has verified.
            index = (entry / INDEX).read_bytes()
            if index != (expected := expected or index):
                raise SystemExit("the results differ")
            shutil.rmtree(cache)
            where = "one process" if workers is None else f"Ray, {workers} workers"
            worker = "" if each.worker_mib is None else f"{each.worker_mib:.0f} MiB"
            print(
                f"{where:20}{options.rows / each.work_seconds:>10,.0f}"
                f"{options.rows / each.seconds:>16,.0f}{each.driver_mib:>6.0f} MiB{worker:>10}"
            )
            figures.append({"workers": workers, **each._asdict()})
    if options.json:
        found = {"rows": options.rows, "figures": figures}
        options.json.write_text(json.dumps(found, indent=1))
    load = os.getloadavg()
    print(
        f"load {load[0]:.1f} on {os.cpu_count()} cores at the end; each result had the same bytes"
    )


if __name__ == "__main__":
    main()
