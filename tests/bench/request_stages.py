"""Time of the stages of a ``/predict`` request, inside one process and without sockets.

64 connections of the service's own protocol, with a transport that takes answers and drops them,
get a request of one row each; then the event loop turns until all have their answers. A stage's
time is its own: what it calls in another stage counts there. Of many rounds the figure is a
quiet one (the fifth percentile), so other work on the machine hardly shows. Timing itself costs
some 0.2 µs for each call of a stage.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import current_thread, main_thread
from time import perf_counter
from typing import Any, cast

import numpy as np
import uvloop

from app.bundle.bundle import Bundle
from app.scoring.batcher import MicroBatcher
from app.scoring.engine_runs import EngineRuns
from app.scoring.job_queue import JobQueue
from app.scoring.scorer import Scorer
from app.serving.tuning import freeze_heap
from app.web.endpoints import ScoringEndpoints
from app.web.exchange import Exchange
from app.web.protocol import ScoringProtocol
from tests.bench.request import golden_bodies
from tests.bench.serving.__main__ import predict_rows
from tests.bench.serving.shape import make
from tests.support.inside import request, serving
from tests.support.serving import ROOT

CONNECTIONS = 64
QUIET = 5
"""Percentile of the rounds that is shown."""
REST = "turns of the event loop"
METHODS: Sequence[tuple[str, type, str]] = (
    ("head: a known one or the parser, the exchange", ScoringProtocol, "data_received"),
    ("limits, request id, deadline, admission", ScoringEndpoints, "open"),
    ("limits, request id, deadline, admission", ScoringEndpoints, "open_known"),
    ("body: what is neither decoding nor encoding, the job", ScoringEndpoints, "begin"),
    ("queue", MicroBatcher, "submit"),
    ("queue", JobQueue, "next_rows"),
    ("queue", Scorer, "_encode_gathered"),
    ("batch and engine", EngineRuns, "run"),
    ("answer: its score, JSON, headers, write; idle again", MicroBatcher, "_finish"),
    ("metrics, bounds of the log", Exchange, "sent"),
)
DECODE, ENCODE = "decode", "encode"


class Stages:
    """Adds up the seconds of each stage while functions that are ``timed`` call one another."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def _switch(self) -> None:
        """Count the time until now for the stage that is open."""
        now = perf_counter()
        if self._open:
            stage = self._open[-1]
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time counts for a stage, unless it runs on another thread."""

        def call(*arguments: Any, **named: Any) -> Any:
            if current_thread() is not main_thread():
                return function(*arguments, **named)
            self._switch()
            self._open.append(stage)
            try:
                return function(*arguments, **named)
            finally:
                self._switch()
                self._open.pop()

        return call


class Sink(asyncio.Transport):
    """A transport that counts answers and drops them."""

    answers = 0

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert bytes(data[:13]) == b"HTTP/1.1 200 ", bytes(data)
        Sink.answers += 1

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


async def measure(bundle: Path, rows: Sequence[Any], rounds: int) -> dict[str, float]:
    """Return the microseconds of each stage of a request, asked with bodies in turn."""
    stages = Stages()
    for stage, owner, name in METHODS:
        setattr(owner, name, stages.timed(stage, getattr(owner, name)))
    requests = [request(body) for body in rows]
    found: dict[str, list[float]] = {}
    async with serving(bundle) as (server, _):
        reader = cast(Any, server.state.scorer)._predict
        # A run on the engine's thread would be waited for, not timed.
        cast(Any, server.state.in_use).batcher._inline_seconds = math.inf
        reader._decode = stages.timed(DECODE, reader._decode)
        reader.jobs = stages.timed(ENCODE, reader.jobs)
        for name in ("context_of", "candidate_of"):
            encoder = reader._encoder
            setattr(encoder, name, stages.timed(ENCODE, getattr(encoder, name)))
        make = cast(Any, server.config.http_protocol_class)
        protocols = []
        for _ in range(CONNECTIONS):
            protocol = make(config=server.config, server_state=server.server_state, app_state={})
            protocol.connection_made(Sink())
            protocols.append(protocol)
        freeze_heap()
        for number in range(rounds):
            wanted = Sink.answers + CONNECTIONS
            stages.seconds.clear()
            start = perf_counter()
            for place, protocol in enumerate(protocols, number * CONNECTIONS):
                protocol.data_received(requests[place % len(requests)])
            while Sink.answers < wanted:  # noqa: ASYNC110 (answers have no event)
                await asyncio.sleep(0)
            taken = perf_counter() - start
            stages.seconds[REST] = taken - sum(stages.seconds.values())
            for stage, seconds in stages.seconds.items():
                found.setdefault(stage, []).append(seconds)
        for protocol in protocols:
            protocol.connection_lost(ConnectionResetError())
    return {
        stage: float(np.percentile(seconds, QUIET)) / CONNECTIONS * 1e6
        for stage, seconds in found.items()
    }


def main() -> int:
    """Measure a bundle; print a Markdown table."""
    parser = argparse.ArgumentParser(prog="tests.bench.request_stages", description=__doc__)
    parser.add_argument(
        "bundle", type=Path, nargs="?",
        help="a bundle, asked its golden requests; else Criteo's shape with drawn values",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=2_000)
    options = parser.parse_args()
    if options.bundle is None:
        bundle, _ = make(ROOT / "data" / "criteo-shape")
        rows = [{"instances": [row]} for row in predict_rows()]
    else:
        bundle = options.bundle.resolve()
        rows, _ = golden_bodies(Bundle.open(bundle).examples)
    found = uvloop.run(measure(bundle, rows, options.rounds))
    print("| stage of a `/predict` request | µs |\n|---|---:|")
    order = [*dict.fromkeys(stage for stage, _, _ in METHODS), REST]
    place = order.index("queue")
    for stage in [*order[:place], DECODE, ENCODE, *order[place:]]:
        print(f"| {stage} | {found.get(stage, 0.0):.1f} |")
    print(f"| all | {sum(found.values()):.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
