"""Rows/s and memory of a command in one process and on a Ray of this machine, in turn."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.cluster import predict, prepare
from tests.bench.cluster.running import PINNED
from tests.support.environments import environment
from tests.support.ray_cluster import cluster

PARTS = {"prepare": prepare, "predict": predict}
ONE_PROCESS = "one process"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench-cluster", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


def main() -> None:
    """Make data, measure, compare the results, and print a table."""
    options = arguments()
    part = PARTS[options.part]
    home = environment(PINNED)
    figures: list[dict[str, object]] = []
    with TemporaryDirectory(prefix="bench-cluster-") as name, cluster(home / "bin/python") as ray:
        made = part.made(Path(name), options.rows)
        print(f"bench: {options.rows:,} rows are written", file=sys.stderr)
        print(f"{'where':20}{'rows/s':>12}{'driver, MiB':>14}{'worker, MiB':>14}", flush=True)
        expected = None
        for workers in (None, *options.workers):
            measured, result = part.measured(ray, made, workers)
            if result != (expected := expected or result):
                raise SystemExit("the results differ")
            where = ONE_PROCESS if workers is None else f"Ray, {workers} workers"
            worker = "" if workers is None else f"{measured.worker_mib:.0f}"
            rate = options.rows / measured.seconds
            print(f"{where:20}{rate:>12,.0f}{measured.driver_mib:>14.0f}{worker:>14}", flush=True)
            figures.append({"workers": workers, "rows_per_second": rate, **measured._asdict()})
    if options.json:
        found = {"part": options.part, "rows": options.rows, "figures": figures}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    load = os.getloadavg()
    print(f"whole commands; load {load[0]:.1f} on {os.cpu_count()} cores at the end; all results")
    print("had the same bytes")


if __name__ == "__main__":
    main()
