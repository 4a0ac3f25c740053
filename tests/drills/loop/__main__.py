"""The whole way round on MovieLens, unattended: several days of simulated users, a line a day."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from model.fetch import fetch
from tests.drills.loop.circle import Circle
from tests.drills.loop.people import Ratings
from tests.support.serving import ROOT

DAYS = 6


def main() -> int:
    """Live the days; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/loop",
        description="Serves MovieLens to simulated users, whose clicks are their held-out ratings,"
        " and trains on what they click. Day 2 has a broken join, day 3 values that are rewritten"
        " behind the log, day 4 a canary that scores too high: the gate, replay and the guard find"
        " them.",
    )  # fmt: skip
    parser.add_argument("--days", type=int, default=DAYS, help=f"days, 4 or more (default {DAYS})")
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of the ratings that take part (default 1)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the users (default 1)")
    parser.add_argument(
        "--data", type=Path, help="directory with ratings.csv; default: fetched into data/"
    )
    parser.add_argument(
        "--keep", type=Path, help="directory for bundles, logs and rows; default: a temporary one"
    )
    given = parser.parse_args()
    if given.days < 4:
        parser.error("--days: the faults are on days 2 to 4")
    data = given.data or fetch("movielens-100k", ROOT / "data")
    with tempfile.TemporaryDirectory(prefix="ctr-loop-") as scratch:
        directory = given.keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        ratings = Ratings.cut(data / "ratings.csv", directory, given.days, given.share, given.seed)
        circle = Circle(directory, ratings, given.seed, 200 if given.share >= 1 else 50)
        for day in circle.run(lambda text: print(text, flush=True)):
            print(day.line(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
