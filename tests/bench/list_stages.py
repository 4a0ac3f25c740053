"""Time of the stages of a ``/rank`` request, on its way from the first byte to the answer.

A service in this process (Criteo's shape, one engine thread) is asked over HTTP by a client in
another one. Stages are told by the clock along the request's way, so they add up: while the engine
scores the first candidates of a long list, the event loop encodes the others, and that time counts
as the engine's. Shown are the means of those requests whose total is between the 40th and the 60th
percentile. Each call that is timed costs some 0.3 µs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import uvloop

from app.scoring.batcher import MicroBatcher
from app.scoring.engine_runs import EngineRuns
from app.scoring.rank import RankReader
from app.serving.tuning import freeze_heap
from app.web.endpoints import ScoringEndpoints
from app.web.exchange import Exchange
from app.web.protocol import ScoringProtocol
from tests.bench.serving.__main__ import CANDIDATES, rank_bodies, rank_over_http
from tests.bench.serving.shape import make
from tests.support.inside import serving
from tests.support.serving import ROOT

BODIES = 30
FORMS = ("rows", "columns")
STAGES = (
    "bytes: head and body", "body split, context, columns", "first part: rows decoded, encoded",
    "to the engine", "engine, without pauses", "between runs", "to the event loop", "answer",
    "outside: sockets, client",
)  # fmt: skip


class Event(NamedTuple):
    """A call of one of the timed functions."""

    name: str
    start: float
    end: float


@contextmanager
def noted(events: list[Event]) -> Iterator[None]:
    """Note the calls of the functions that stages begin or end with."""

    def watch(owner: type, name: str) -> Callable[..., Any]:
        function = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            start = perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                events.append(Event(name, start, perf_counter()))

        setattr(owner, name, call)
        return function

    def watch_steps(owner: type, name: str) -> Callable[..., Any]:
        function = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            start = perf_counter()
            result = yield from function(*arguments, **named)
            events.append(Event(name, start, perf_counter()))
            return result

        setattr(owner, name, call)
        return function

    watched: Sequence[tuple[type, str, Callable[[type, str], Callable[..., Any]]]] = (
        (ScoringProtocol, "data_received", watch), (ScoringEndpoints, "begin", watch),
        (RankReader, "read", watch_steps), (MicroBatcher, "submit", watch),
        (EngineRuns, "run", watch), (MicroBatcher, "_finish", watch), (Exchange, "scored", watch),
    )  # fmt: skip
    before = [(owner, name, how(owner, name)) for owner, name, how in watched]
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def requests_of(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Yield the events of one request after the other."""
    own: list[Event] = []
    for event in sorted(events, key=lambda each: each.start):
        if event.name == "data_received" and any(each.name == "scored" for each in own):
            yield own
            own = []
        own.append(event)
    if own:
        yield own


def stages_of(events: Sequence[Event]) -> list[float]:
    """Return the seconds of each stage inside the service."""
    first = {each.name: each for each in reversed(events)}
    runs = [each for each in events if each.name == "run"]
    scored = first["scored"]
    busy = sum(each.end - each.start for each in runs)
    ends = [
        first["data_received"].start, first["begin"].start, first["read"].end,
        first["submit"].start, runs[0].start,
    ]  # fmt: skip
    last = runs[-1].end
    # A run on the event loop is followed at once by its answer.
    answering = max(last, max(each.start for each in events if each.name == "_finish"))
    return [
        *(end - start for start, end in pairwise(ends)),
        busy, last - runs[0].start - busy, answering - last, scored.end - answering,
    ]  # fmt: skip


def bodies_of(candidates: int, form: str, path: Path) -> None:
    """Write bodies, one a line."""
    bodies = rank_bodies(path, candidates, BODIES)
    if form == "rows":
        for body in bodies:
            columns = body["candidates"]["features"]
            rows = zip(body["candidates"]["id"], *columns.values(), strict=True)
            body["candidates"] = [
                {"id": identity, "features": dict(zip(columns, values, strict=True))}
                for identity, *values in rows
            ]
        path.write_text("".join(json.dumps(body) + "\n" for body in bodies))


async def measure(bundle: Path, bodies: Path, count: int) -> list[float]:
    """Return the microseconds of each stage."""
    events: list[Event] = []
    with noted(events):
        async with serving(bundle, engine_threads=1) as (_, port):
            freeze_heap()
            words = "-m", "tests.bench.list_stages", "--ask", str(port), str(bodies), str(count)
            client = await asyncio.create_subprocess_exec(
                sys.executable, *words, stdout=asyncio.subprocess.PIPE
            )
            told, _ = await client.communicate()
    found = np.array([stages_of(each) for each in requests_of(events)][count // 5 :])
    totals = found.sum(1)
    least, most = np.percentile(totals, (40, 60))
    usual = found[(totals >= least) & (totals <= most)].mean(0)
    return [*(usual * 1e6).tolist(), float(told) - float(usual.sum()) * 1e6]


def main() -> int:
    """Measure both forms and all lengths; print a Markdown table."""
    parser = argparse.ArgumentParser(prog="tests.bench.list_stages", description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--candidates", type=int, nargs="+", default=CANDIDATES)
    parser.add_argument("--ask", nargs=3, metavar=("PORT", "FILE", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        port, file, count = options.ask
        asked = [line.encode() for line in Path(file).read_text().splitlines()]
        print(rank_over_http(asked, int(count), int(port)) * 1e6)
        return 0
    bundle, _ = make(ROOT / "data" / "criteo-shape")
    columns: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for form in FORMS:
            for candidates in options.candidates:
                path = Path(scratch) / f"{form}{candidates}"
                bodies_of(candidates, form, path)
                found = uvloop.run(measure(bundle, path, options.requests))
                columns[f"{candidates} as {form}"] = found
    print(f"| stage of a `/rank` request, µs | {' | '.join(columns)} |")
    print(f"|---|{'---:|' * len(columns)}")
    for stage, values in zip(STAGES, zip(*columns.values(), strict=True), strict=True):
        print(f"| {stage} | {' | '.join(f'{value:.0f}' for value in values)} |")
    print(f"| all | {' | '.join(f'{sum(values):.0f}' for values in columns.values())} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
