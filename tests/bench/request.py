"""CPU time of a request beside that of another checkout, such as the commit before a change.

Both checkouts serve the same bundle at the same time, one worker each. wrk drives them in turn,
and the figure is the CPU time (user and system) that the service's process used in a turn, over
the requests that it answered. On a shared machine that is far steadier than any rate or latency,
and the ratio of two neighbouring turns is steadier still. Without another checkout the figures
are those of this one.

The bundle is Criteo's shape (39 fields, a million table rows, layers 400-400-400) with 10,000
bodies of Zipf-distributed values, or the one of ``--bundle`` with bodies from its golden requests.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from app.bundle.bundle import Bundle, Example
from tests.bench.serving.__main__ import predict_bodies, predict_rows, wrk
from tests.bench.serving.shape import Draws, make
from tests.support.serving import ROOT, Service

CONNECTIONS = (32, 128)
CANDIDATES = 100
RANK_BODIES = 300
WARM_UP_SECONDS = 1


class Pair(NamedTuple):
    """CPU microseconds of a request in two neighbouring turns; ``before`` is the other's."""

    before: float
    now: float


class Load(NamedTuple):
    """Requests to measure: where they go to, the file of their bodies, how many at once."""

    target: str
    bodies: Path
    connections: int

    def __str__(self) -> str:
        many = "connection" if self.connections == 1 else "connections"
        return f"`{self.target}`, {self.connections} {many}"


def golden_bodies(examples: Sequence[Example]) -> tuple[list[Any], list[Any]]:
    """Return bodies of ``/predict`` with one row each, and of ``/rank``, from golden requests."""
    rows = [
        {"instances": [{**each.context, **row}]} for each in examples for row in each.candidates
    ]
    lists = [
        {
            "context": each.context,
            "candidates": [
                {"features": each.candidates[n % len(each.candidates)]} for n in range(CANDIDATES)
            ],
        }
        for each in examples
    ]
    return rows, lists


def drawn_lists() -> list[Any]:
    """Return bodies of ``/rank`` in Criteo's shape."""
    draws = Draws(CANDIDATES)
    return [
        {
            "context": draws.side(True),
            "candidates": {"features": draws.columns(False, CANDIDATES)},
        }
        for _ in range(RANK_BODIES)
    ]


def write_lines(path: Path, bodies: Sequence[Any]) -> None:
    """Write bodies, one a line."""
    path.write_text("".join(json.dumps(body) + "\n" for body in bodies))


@contextmanager
def serving(checkout: Path, bundle: Path, log: Path, **settings: object) -> Iterator[Service]:
    """Run the service of a checkout until the block ends."""
    service = Service(
        bundle, log, {"PYTHONPATH": str(checkout)}, (sys.executable, "-P", "-m", "app"),
        log_level="warning", **settings,
    )  # fmt: skip
    try:
        service.wait_ready()
        yield service
    finally:
        service.stop()


def cpu_microseconds(service: Service, load: Load, seconds: int) -> float:
    """Return the CPU time of a request in one turn."""
    start = service.cpu_seconds()
    done = wrk(load.bodies, load.connections, seconds, load.target, service.port)
    return (service.cpu_seconds() - start) / done.requests * 1e6


def pairs(
    before: Service | None, now: Service, load: Load, seconds: int, repeat: int
) -> Iterator[Pair]:
    """Measure both services in turn; the first of a pair is the second of the next."""
    for each in {before or now, now}:
        cpu_microseconds(each, load, WARM_UP_SECONDS)
    for number in range(repeat):
        if before is None:
            figure = cpu_microseconds(now, load, seconds)
            yield Pair(figure, figure)
        elif number % 2:
            second = cpu_microseconds(now, load, seconds)
            yield Pair(cpu_microseconds(before, load, seconds), second)
        else:
            first = cpu_microseconds(before, load, seconds)
            yield Pair(first, cpu_microseconds(now, load, seconds))


def line(load: Load, found: Sequence[Pair], compared: bool) -> str:
    """Return a load's line of the table: medians, and the spread of the ratio."""
    now = statistics.median(pair.now for pair in found)
    if not compared:
        least, most = min(pair.now for pair in found), max(pair.now for pair in found)
        return f"| {load} | {now:.1f} | {least:.1f} to {most:.1f} |"
    before = statistics.median(pair.before for pair in found)
    shares = [pair.now / pair.before for pair in found]
    return (
        f"| {load} | {before:.1f} | {now:.1f} | {statistics.median(shares):.3f} "
        f"| {min(shares):.3f} to {max(shares):.3f} |"
    )


def main() -> None:
    """Measure and print a Markdown table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench-request", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("baseline", nargs="?", type=Path, help="another checkout")
    parser.add_argument("--repeat", type=int, default=9, help="turns of each (default 9)")
    parser.add_argument("--seconds", type=int, default=2, help="of a turn (default 2)")
    parser.add_argument("--bundle", type=Path, help="a bundle to serve, instead of Criteo's shape")
    parser.add_argument(
        "--baseline-bundle", type=Path, metavar="BUNDLE",
        help="the same one for the other checkout, if that reads another format",
    )  # fmt: skip
    parser.add_argument(
        "--connections", type=int, nargs="+", default=CONNECTIONS, help="default: 32 and 128"
    )
    parser.add_argument("--no-rank", action="store_true", help=f"leave out /rank of {CANDIDATES}")
    options = parser.parse_args()
    # A benchmark that is told to end ends its servers first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as name, ExitStack() as services:
        scratch = Path(name)
        rows, lists = scratch / "rows", scratch / "lists"
        if options.bundle is None:
            bundle, _ = make(ROOT / "data" / "criteo-shape")
            predict_bodies(rows, predict_rows())
            write_lines(lists, drawn_lists())
        else:
            bundle = options.bundle
            for path, bodies in zip(
                (rows, lists), golden_bodies(Bundle.open(bundle).examples), strict=True
            ):
                write_lines(path, bodies)
        loads = [Load("/predict", rows, connections) for connections in options.connections]
        if not options.no_rank:
            loads.append(Load("/rank", lists, 1))
        now = services.enter_context(serving(ROOT, bundle.resolve(), scratch / "now.log"))
        before = None
        if options.baseline is not None:
            other = (options.baseline_bundle or bundle).resolve()
            before = services.enter_context(
                serving(options.baseline.resolve(), other, scratch / "before.log")
            )
            print("| CPU of a request | before, µs | now, µs | now / before | spread |")
            print("|---|---:|---:|---:|---:|")
        else:
            print("| CPU of a request | µs | spread |")
            print("|---|---:|---:|")
        for load in loads:
            found = list(pairs(before, now, load, options.seconds, options.repeat))
            print(line(load, found, before is not None), flush=True)


if __name__ == "__main__":
    main()
