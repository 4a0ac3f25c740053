"""CPU time of a request with the way back beside without it: request log, drift, metrics.

Two services over one bundle run at the same time, one worker each: one with a request log of 1 %
and the drift of every slot, the other with neither. ``--with`` and ``--without`` give either of
them more settings. wrk drives them in turn, and the figure is the ratio of the CPU times of
neighbouring turns, with the interval in which its median lies in 95 of 100 such runs (order
statistics). Then a service that logs every request is driven as fast as it goes: lines that were
lost.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from math import comb
from pathlib import Path

from app.bundle.bundle import Bundle
from tests.bench.request import (
    Load,
    Pair,
    drawn_lists,
    golden_bodies,
    pairs,
    serving,
    write_lines,
)
from tests.bench.serving.__main__ import predict_bodies, predict_rows, wrk
from tests.bench.serving.shape import make
from tests.support.serving import ROOT, Service, wait_until

CONNECTIONS = (1, 32, 128)
CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the order statistics between which the median lies with 95 % confidence.

    Of too few values these are the least and the greatest.
    """
    ordered, count = sorted(values), len(values)
    outside, place = 0.0, 0
    while place < count // 2:
        outside += 2 * comb(count, place) / 2**count
        if outside > 1 - CONFIDENCE:
            break
        place += 1
    place = max(place - 1, 0)
    return ordered[place], ordered[-1 - place]


def line(load: Load, found: Sequence[Pair]) -> str:
    """Return a load's line of the table."""
    shares = [pair.now / pair.before for pair in found]
    before = statistics.median(pair.before for pair in found)
    now = statistics.median(pair.now for pair in found)
    least, most = interval(shares)
    return (
        f"| {load} | {before:.1f} | {now:.1f} | {statistics.median(shares):.3f} "
        f"| {least:.3f} to {most:.3f} |"
    )


def lost(service: Service, load: Load, seconds: int) -> str:
    """Drive a service that logs everything; return what became of the lines."""
    done = wrk(load.bodies, load.connections, seconds, load.target, service.port)

    def settled() -> bool:
        metrics = service.metrics()
        lines = metrics["ctr_request_log_lines_total"]
        return (
            lines + dropped(metrics) >= metrics['ctr_requests_total{outcome="200",route="predict"}']
        )

    def dropped(metrics: dict[str, float]) -> float:
        return sum(value for name, value in metrics.items() if "request_log_dropped" in name)

    wait_until(settled, "the log has written what waits", 60)
    metrics = service.metrics()
    written, lines = metrics["ctr_request_log_bytes_total"], metrics["ctr_request_log_lines_total"]
    share = dropped(metrics) / (lines + dropped(metrics))
    return (
        f"{load}: {done.rate:,.0f} requests/s, {share:.1%} of the lines lost, {written / lines:.0f}"
        " bytes a line"
    )


def settings(words: Sequence[str]) -> dict[str, str]:
    """Return settings given as NAME=VALUE."""
    return dict(word.split("=", 1) for word in words)


def main() -> None:
    """Measure and print a Markdown table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench-loop", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--repeat", type=int, default=10, help="pairs of turns (default 10)")
    parser.add_argument("--seconds", type=int, default=2, help="of a turn (default 2)")
    parser.add_argument("--bundle", type=Path, help="a bundle to serve, instead of Criteo's shape")
    parser.add_argument(
        "--connections", type=int, nargs="+", default=CONNECTIONS, help="default: 1, 32 and 128"
    )
    parser.add_argument(
        "--with", nargs="+", default=[], dest="more", metavar="NAME=VALUE",
        help="settings of the service with the way back, such as request_log_key=user_id",
    )  # fmt: skip
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the other"
    )
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
        bundle = bundle.resolve()
        log = {"request_log": str(scratch / "requests")}
        without = services.enter_context(
            serving(
                ROOT, bundle, scratch / "without.log", drift_rows="0", **settings(options.without)
            )
        )
        with_it = services.enter_context(
            serving(ROOT, bundle, scratch / "with.log", **log, **settings(options.more))
        )
        print("| CPU of a request | without, µs | with, µs | with / without | 95 % interval |")
        print("|---|---:|---:|---:|---:|")
        loads = [Load("/predict", rows, connections) for connections in options.connections]
        for load in [*loads, Load("/rank", lists, 1)]:
            found = list(pairs(without, with_it, load, options.seconds, options.repeat))
            print(line(load, found), flush=True)
        all_of_it = services.enter_context(
            serving(
                ROOT,
                bundle,
                scratch / "all.log",
                request_log=str(scratch / "all"),
                request_log_share="1",
            )
        )
        print(lost(all_of_it, loads[-1], options.seconds * 3))


if __name__ == "__main__":
    main()
