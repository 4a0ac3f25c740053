"""Drives a running service and says whether it met its objectives: see --help."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.bundle.bundle import Bundle
from app.bundle.directory import newest
from app.errors import CtrError
from tests.load import plot, report
from tests.load.arguments import Options, parse
from tests.load.bodies import Maker, Part, parse_mix, read_bodies
from tests.load.client import Load
from tests.load.errors import RunFailed, UsageError
from tests.load.limits import distortions
from tests.load.objective import Objective, Verdict
from tests.load.record import RIGHT, Record
from tests.load.run import run, spread
from tests.load.schedule import Schedule
from tests.load.service import Service
from tests.load.values import SYNTHETIC_VALUES, Draws, Shape, from_bundle, from_rows, synthetic

MET, NOT_MET, USAGE, DISTORTED, INTERRUPTED = 0, 1, 2, 3, 130


def main(words: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        return drive(parse(words))
    except (UsageError, CtrError) as error:
        print(f"load: {error}", file=sys.stderr)
        return USAGE
    except RunFailed as error:
        print(f"load: {error}", file=sys.stderr)
        return DISTORTED
    except KeyboardInterrupt:
        return INTERRUPTED


def drive(options: Options) -> int:
    """Ask the service for what bodies need, send them, report, and judge.

    Raises:
        UsageError: something makes the run impossible.
        RunFailed: it ended without figures.
    """
    due = due_moments(options)
    parts, shares = None, {}
    if options.bodies:
        parts = read_bodies(options.bodies)
    else:
        shares = parse_mix(options.mix or "predict:1")
    kinds = [part.kind for part in parts] if parts else list(shares)
    objectives = [Objective.parse(text, kinds) for text in options.objective]
    with Service(options.url, options.patience, options.headers) as service:
        version = service.ready()
        values = f"bodies of {options.bodies}"
        if parts is None:
            maker, values = body_maker(options, service, version)
            parts = maker.mix(shares)
        service.accepts(parts)
    setup = described(options, version, values, parts)
    print(f"{setup['load']}, {options.warmup:g} s of warm-up and {options.duration:g} s; "
          "Ctrl-C ends it early", file=sys.stderr)  # fmt: skip
    load = Load(
        options.url, due, options.concurrency is not None, options.warmup, options.duration, parts,
        options.connections, options.patience, options.headers, options.seed,
    )  # fmt: skip
    record = run(spread(load, options.processes))
    verdicts = [objective.judge(record) for objective in objectives]
    distorted = distortions(record, objectives, options.allowed_delay_ms)
    found = report.figures(setup, record, verdicts, distorted)
    print(report.text(found), end="")
    write(options, found, record)
    return exit_code(record, verdicts, distorted)


def exit_code(record: Record, verdicts: Sequence[Verdict], distorted: Sequence[str]) -> int:
    """Return the exit code of a run; distorted figures are not judged."""
    if record.interrupted:
        return INTERRUPTED
    if distorted:
        return DISTORTED
    met = all(verdict.met for verdict in verdicts) and record.total.outcomes[RIGHT]
    return MET if met else NOT_MET


def due_moments(options: Options) -> NDArray[np.float64]:
    """Return the times at which requests are due, or callers start: evenly over the warm-up.

    Callers that started together would be answered together too, wave after wave.

    Raises:
        UsageError: never, or too often.
    """
    if options.concurrency:
        return np.linspace(-options.warmup, 0.0, options.concurrency, endpoint=False)
    schedule = Schedule(
        options.rate or 0.0, options.poisson, options.burst or 0, options.every or 1.0
    )
    return schedule.times(-options.warmup, options.duration, options.seed)


def body_maker(options: Options, service: Service, version: str) -> tuple[Maker, str]:
    """Return what makes bodies that fit the service, and where their values come from.

    Raises:
        UsageError: the service's fields are not told, or the values do not fit them.
    """
    shapes: list[Shape] = service.shapes()
    if options.data:
        pools, source = from_rows(options.data, shapes), f"values of {options.data}"
    elif options.bundle:
        bundle = Bundle.open(newest(options.bundle))
        if bundle.version != version:
            print(f"load: values are those of {bundle.version}, not of what is served, {version}",
                  file=sys.stderr)  # fmt: skip
        pools, source = from_bundle(bundle, shapes, options.seed), "values of the bundle"
    else:
        pools = synthetic(shapes, service.example(), options.seed)
        source = f"made-up values (numbers up to {SYNTHETIC_VALUES:,})"
    exponent = 1.1 if options.zipf is None else options.zipf
    draws = Draws(pools, exponent, options.seed)
    maker = Maker(shapes, draws, options.distinct or 2000, options.columnar or 0.0)
    return maker, f"{source}, Zipf {exponent:g}, seed {options.seed}"


def described(options: Options, version: str, values: str, parts: Sequence[Part]) -> dict[str, Any]:
    """The run's settings, for the report."""
    if options.concurrency:
        load = f"closed loop of {options.concurrency} callers"
    else:
        spacing = "at random moments" if options.poisson else "evenly"
        rate = [f"{options.rate:g}/s {spacing}"] if options.rate else []
        if options.burst:
            rate.append(f"{options.burst} at once every {options.every or 1:g} s")
        load = " and ".join(rate)
    return {
        "url": options.url,
        "version": version,
        "load": load,
        "mix": {part.kind: round(part.share, 4) for part in parts},
        "values": values,
        "warmup_s": options.warmup,
        "duration_s": options.duration,
        "max_connections": options.connections,
        "processes": options.processes,
        "patience_s": options.patience,
        "timeout_ms": options.timeout_ms,
        "seed": options.seed,
    }


def write(options: Options, found: dict[str, Any], record: Record) -> None:
    """Write the files that were asked for, each whole or not at all."""
    if options.json:
        replace(options.json, msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    if options.hgrm:
        replace(options.hgrm, record.total.latency.distribution().encode())
    if options.png:
        replace(options.png, plot.draw(found))


def replace(path: Path, content: bytes) -> None:
    """Put a file into its place in one step."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


if __name__ == "__main__":
    sys.exit(main())
