"""What a trial costs the others: the 99th percentile of ``/predict``, and CPU time.

One service over a directory of two bundles, of which one is the other under a version of its own,
is driven at 300 requests a second, in turn without a trial, with a shadow of a tenth of the
requests, with one of all, and with a canary of 5 %. ``BUNDLE`` has a context field ``user_id``.
The figures are medians over the rounds, and the medians of the rounds' ratios to the turn without.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import httpx
from onnx import GraphProto

from app.bundle.directory import CURRENT, newest
from tests.bench.paced import p99_of_predict
from tests.support.bad_graphs import with_graph
from tests.support.serving import Service, free_port

KEY = "0123456789abcdef" * 4
NAMES = ("without", "shadow of a tenth", "shadow of all", "canary of 5 %")


class Turn(NamedTuple):
    """Figures of one turn: milliseconds, and microseconds of CPU a request."""

    p99: float
    cpu: float


def renamed(graph: GraphProto) -> None:
    """Make a graph another file, and so another version, that scores the same."""
    graph.name = "on trial"


class Trials:
    """A service with a bundle that may be on trial."""

    def __init__(self, bundle: Path, scratch: Path) -> None:
        directory = scratch / "bundles"
        shutil.copytree(bundle, directory / bundle.name)
        self._bundle = bundle
        self._other = with_graph(bundle, directory, renamed).name
        (directory / CURRENT).write_text(bundle.name)
        key = scratch / "key"
        key.write_text(hashlib.sha256(KEY.encode()).hexdigest())
        port = free_port()
        self.service = Service(
            directory, scratch / "log", {}, log_level="warning", admin_port=port, admin_key_file=key
        )
        self.service.wait_ready()
        self._admin = httpx.Client(
            base_url=f"http://127.0.0.1:{port}/admin/bundles/{self._other}",
            headers={"authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False,
        )  # fmt: skip

    def turn(self, name: str, seconds: int) -> Turn:
        """Drive the service for some seconds, with the trial of a name."""
        bodies: Mapping[str, tuple[str, dict[str, Any]]] = {
            "shadow of a tenth": ("/shadow", {"share": 0.1}),
            "shadow of all": ("/shadow", {"share": 1}),
            "canary of 5 %": ("/canary", {"share": 0.05, "key": "user_id"}),
        }
        if name in bodies:
            path, body = bodies[name]
            self._admin.post(path, json=body).raise_for_status()
        answered, start = self._answered(), self.service.cpu_seconds()
        p99 = p99_of_predict(self.service, self._bundle, seconds)
        cpu = (self.service.cpu_seconds() - start) / (self._answered() - answered) * 1e6
        if name in bodies:
            self._admin.post("/stop").raise_for_status()
        return Turn(p99, cpu)

    def _answered(self) -> float:
        return self.service.metrics()['ctr_requests_total{outcome="200",route="predict"}']

    def close(self) -> None:
        """End the service."""
        self._admin.close()
        self.service.stop()


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench-trials", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("bundle", type=Path, help="a bundle, or a directory of them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of a turn (default 5)")
    given = parser.parse_args()
    found: dict[str, list[Turn]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as scratch:
        trials = Trials(newest(given.bundle), Path(scratch))
        try:
            trials.turn(NAMES[0], 2)
            for _ in range(given.rounds):
                for name in NAMES:
                    found[name].append(trials.turn(name, given.seconds))
        finally:
            trials.close()
    print("| trial | p99, ms | over without | CPU of a request, µs | over without |")
    print("|---|---:|---:|---:|---:|")
    without = found[NAMES[0]]
    for name, turns in found.items():
        p99, cpu = (
            median(turn[place] / none[place] for turn, none in zip(turns, without, strict=True))
            for place in range(2)
        )
        print(
            f"| {name} | {median(turn.p99 for turn in turns):.2f} | {p99:.2f}"
            f" | {median(turn.cpu for turn in turns):.0f} | {cpu:.2f} |"
        )


if __name__ == "__main__":
    main()
