"""The command line."""

from __future__ import annotations

import argparse
import importlib.util
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.load.errors import UsageError
from tests.load.limits import LEAST_DELAY_MS

DESCRIPTION = """\
Open-loop load on a running service, judged by stated objectives.

The moments at which requests are due are fixed beforehand; a service that falls behind does not
slow the load down, and latency counts from the moment a request was due (no coordinated
omission). With --concurrency callers ask again as soon as they are answered instead: a stall
then holds back the requests behind it, so latencies are better than those that independent
callers would see.
"""
EXIT_CODES = """\
exit codes:
  0    every objective was met
  1    an objective was not met, or no request had a right answer
  2    usage: an argument is wrong, or the service cannot be reached or is not ready
  3    the generator's own limits distorted the run: the figures say little about the service
  130  interrupted; the summary covers what was sent until then
"""
OPEN_CONNECTIONS = 512
SPARE_FILES = 64


class Options(argparse.Namespace):
    """The command line's values; None where a default depends on others."""

    url: str
    duration: float
    warmup: float
    rate: float | None
    poisson: bool
    burst: int | None
    every: float | None
    concurrency: int | None
    mix: str | None
    columnar: float | None
    bundle: Path | None
    data: Path | None
    bodies: Path | None
    zipf: float | None
    distinct: int | None
    timeout_ms: int | None
    seed: int
    max_connections: int | None
    processes: int
    patience: float
    allowed_delay_ms: float | None
    objective: list[str]
    json: Path | None
    png: Path | None
    hgrm: Path | None

    @property
    def connections(self) -> int:
        """The cap on connections."""
        return self.max_connections or self.concurrency or OPEN_CONNECTIONS

    @property
    def headers(self) -> dict[str, str]:
        """Headers sent with every request."""
        if self.timeout_ms is None:
            return {}
        return {"x-request-timeout-ms": str(self.timeout_ms)}


def _number(least: float, most: float = float("inf"), whole: bool = False) -> Callable[[str], Any]:
    """Return a reader of finite numbers in [least, most]."""

    def read(text: str) -> float:
        value = int(text) if whole else float(text)
        if not least <= value <= most or value == float("inf"):
            bounds = f"from {least:g} to {most:g}" if most < float("inf") else f"at least {least:g}"
            raise argparse.ArgumentTypeError(f"{text} is not {bounds}")
        return value

    read.__name__ = "whole number" if whole else "number"
    return read


def _parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m tests.load", description=DESCRIPTION, epilog=EXIT_CODES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = result.add_argument
    add("--url", default="http://127.0.0.1:8000", help="default %(default)s")
    add("--duration", type=_number(0.1), default=10.0, metavar="S",
        help="measured time (default %(default)g)")  # fmt: skip
    add("--warmup", type=_number(0), default=2.0, metavar="S",
        help="the same load before it, not counted (default %(default)g)")  # fmt: skip

    load = result.add_argument_group("load: --rate, --burst or both; or --concurrency")
    add = load.add_argument
    add("--rate", type=_number(0.01), metavar="R", help="requests per second")
    add("--poisson", action="store_true", help="at random moments instead of evenly spaced ones")
    add("--burst", type=_number(1, whole=True), metavar="N", help="N requests at one moment ...")
    add("--every", type=_number(0.001), metavar="S", help="... every S seconds (default 1)")
    add("--concurrency", type=_number(1, whole=True), metavar="N",
        help="closed loop of N callers, started one by one during the warm-up")  # fmt: skip

    bodies = result.add_argument_group("requests")
    add = bodies.add_argument
    add("--mix", metavar="M",
        help="endpoints and rows with weights, as in predict:1=0.8,rank:100=0.15,rank:1000=0.05 "
        "(default predict:1)")  # fmt: skip
    add("--columnar", type=_number(0, most=1), metavar="SHARE",
        help="share of /rank bodies in columnar form (default 0)")  # fmt: skip
    add("--bundle", type=Path, help="take the values that this bundle knows (a bundle or a "
        "directory of them); without --bundle or --data values are made up")  # fmt: skip
    add("--data", type=Path, metavar="FILE",
        help="take the values of raw rows, one JSON object a line")  # fmt: skip
    add("--bodies", type=Path, metavar="FILE", help="send these bodies, one a line")
    add("--zipf", type=_number(0), metavar="S",
        help="exponent of the values' frequencies by their position (default 1.1)")  # fmt: skip
    add("--distinct", type=_number(1, whole=True), metavar="N",
        help="different bodies of each part of the mix, fewer if long (default 2000)")  # fmt: skip
    add("--timeout-ms", type=_number(1, whole=True), metavar="MS",
        help="send X-Request-Timeout-Ms")  # fmt: skip
    add("--seed", type=_number(0, whole=True), default=1, metavar="N", help="default %(default)d")

    own = result.add_argument_group("the generator's own limits")
    add = own.add_argument
    add("--max-connections", type=_number(1, whole=True), metavar="N",
        help=f"default {OPEN_CONNECTIONS}, or the concurrency")  # fmt: skip
    add("--processes", type=_number(1, whole=True), default=1, metavar="N",
        help="httpx takes the better part of a millisecond of CPU a request; more processes "
        "reach higher rates (default %(default)d)")  # fmt: skip
    add("--patience", type=_number(0.01), default=10.0, metavar="S",
        help="limit for connecting, sending, an answer, and for a connection to become free "
        "(default %(default)g)")  # fmt: skip
    add("--allowed-delay-ms", type=_number(0), metavar="MS",
        help="own delays, at p99 or the highest percentile of an objective, above which the run "
        "counts as distorted (default: a tenth of the latency there or a quarter of the shortest "
        f"duration that an objective states, at least {LEAST_DELAY_MS:g})")  # fmt: skip

    results = result.add_argument_group("results")
    add = results.add_argument
    add("--objective", action="append", default=[], metavar="O",
        help="p99<=20ms, max<=1s, errors<=0.1%%, refused<=1%%, rate>=290/s; a percentile is over "
        "all requests, those without a right answer never answered. Repeatable; in front may "
        "stand answered., refused., service. or a part of the mix, as in "
        "rank:1000.p99<=80ms")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write every figure")
    add("--png", type=Path, metavar="FILE", help="draw latency over time (needs matplotlib)")
    add("--hgrm", type=Path, metavar="FILE",
        help="write the latencies' percentile distribution as HdrHistogram does")  # fmt: skip
    return result


def parse(words: list[str] | None = None) -> Options:
    """Read the command line; a wrong one ends the program with exit code 2.

    Raises:
        UsageError: arguments do not go together, or this machine cannot do what they ask.
    """
    options = _parser().parse_args(words, Options())
    _check_load(options)
    _check_requests(options)
    for name in ("json", "png", "hgrm"):
        path: Path | None = getattr(options, name)
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise UsageError(f"--{name}: {path} cannot be written: no such directory")
    if options.png and importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--png needs matplotlib, which is not installed")
    _raise_file_limit(options)
    return options


def _check_load(options: Options) -> None:
    parts = urlsplit(options.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise UsageError(f"--url: expected http://HOST:PORT, got {options.url!r}")
    opened = {"--rate": options.rate, "--poisson": options.poisson, "--burst": options.burst,
              "--every": options.every}  # fmt: skip
    if options.concurrency and (given := [name for name, value in opened.items() if value]):
        raise UsageError(f"--concurrency is a closed loop and takes no {given[0]}")
    if not (options.concurrency or options.rate or options.burst):
        raise UsageError("one of --rate, --burst and --concurrency is needed")
    if options.poisson and not options.rate:
        raise UsageError("--poisson goes with --rate")
    if options.every and not options.burst:
        raise UsageError("--every goes with --burst")
    if options.connections < options.processes:
        raise UsageError(f"{options.processes} processes need as many connections at least")


def _check_requests(options: Options) -> None:
    made = {
        "--mix": options.mix,
        "--columnar": options.columnar,
        "--bundle": options.bundle,
        "--data": options.data,
        "--zipf": options.zipf,
        "--distinct": options.distinct,
    }
    if options.bodies and (given := [name for name, value in made.items() if value is not None]):
        raise UsageError(f"--bodies are sent as they are and take no {given[0]}")
    if options.bundle and options.data:
        raise UsageError("values come from --bundle or from --data, not from both")


def _raise_file_limit(options: Options) -> None:
    """Let each process have the files that its connections need.

    Raises:
        UsageError: the system does not.
    """
    needed = -(-options.connections // options.processes) + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise UsageError(
            f"{options.connections} connections need {needed} open files in a process; this "
            f"system allows {hard} (ulimit -n): use more --processes or fewer --max-connections"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
