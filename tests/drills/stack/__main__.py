"""The real stack in containers, from nothing to nothing: cold start, scores, Redis going and
coming, late Redis and late publisher, another bundle, another image, a rolling update of the
chart's pods, data prepared on a Ray cluster, a stop under load."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from model.fetch import fetch
from tests.drills.stack.engine import ROOT, Engine, NoEngine, engine
from tests.drills.stack.proof import Proof, need
from tests.drills.stack.stack import PROJECT, stack
from tests.drills.stack.traffic import Truth


def prove(engine: Engine, data: Path, cold_starts: int) -> None:
    """Run every step and say what came of it."""
    ratings = data / "movielens-100k" / "ratings.csv"
    with TemporaryDirectory(prefix="stack-") as scratch, stack(engine, data) as made:
        proof = Proof(made, Truth(ratings), Path(scratch))
        steps: list[Callable[[], str]] = [proof.cold_start] * cold_starts
        steps += [
            proof.scores, proof.hardening, proof.load, proof.redis_outage, proof.late,
            proof.late_snapshot, proof.roll, proof.new_image, proof.rolling_update, proof.cluster,
            proof.stop_under_load,
        ]  # fmt: skip
        for step in steps:
            start = time.monotonic()
            said = step()
            name = step.__name__.replace("_", " ")
            print(f"ok  {name:16} {time.monotonic() - start:6.1f} s  {said}", flush=True)
        made.down()
        left = made.docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}")
        left += made.docker("volume", "ls", "-q", "--filter", f"name={PROJECT}_")
        need(not left.strip(), f"left behind: {left}")
        print("ok  torn down", flush=True)


def main() -> None:
    """Set up what is needed, then prove."""
    parser = argparse.ArgumentParser(prog="scripts/test-stack", description=__doc__)
    parser.add_argument("--cold-starts", type=int, default=1, metavar="N", help="default 1")
    options = parser.parse_args()
    # SIGTERM takes everything down, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start = time.monotonic()
    fetch("movielens-100k", ROOT / "data")
    try:
        with engine() as found:
            prove(found, (ROOT / "data").resolve(), options.cold_starts)
    except NoEngine as reason:
        print(reason, file=sys.stderr)
        last = str(reason).strip().splitlines()[-1]
        print(f"SKIPPED: test-stack: no Docker engine can be set up here: {last}")
        return
    print(f"the stack holds what it promises ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
