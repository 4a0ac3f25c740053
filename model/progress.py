"""What a run tells of itself while it lasts, on standard error; standard output is for results."""

from __future__ import annotations

import os
import sys
from time import perf_counter

from tqdm import tqdm

FIRST = os.environ.get("RANK", "0") == "0"
"""Whether this is the first of several processes, or alone: the others say nothing."""


def say(text: str) -> None:
    """Tell one thing."""
    if not FIRST:
        return
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def warn(text: str) -> None:
    """Print a warning."""
    say(f"warning: {text}")


class Stopwatch:
    """Tells how long each stage took."""

    def __init__(self) -> None:
        self._since = perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last time, or since it was made."""
        before, self._since = self._since, perf_counter()
        return self._since - before


def bar(what: str, total: int, unit: str, shown: bool) -> tqdm[None]:
    """Return a bar of how far a stage is and how long it will still take, on a terminal."""
    return tqdm(
        desc=what, total=total, unit=unit, unit_scale=True, leave=False,
        disable=None if shown else True,
    )  # fmt: skip
