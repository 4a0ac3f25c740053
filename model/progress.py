"""Messages and progress of a run, on standard error; standard output is for results."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from time import perf_counter
from types import TracebackType
from typing import Self, TypeAlias

from tqdm import tqdm

LINE_SECONDS = 5.0
"""Time between the first lines of progress where standard error is not a terminal."""
MAX_LINE_SECONDS = 60.0
"""The same in a long stage: the time grows to a third of what the stage has taken so far."""


def is_first() -> bool:
    """Tell whether this is the first of several processes, or the only one.

    The others print nothing.
    """
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print a line without breaking a progress bar."""
    if not is_first():
        return
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def warn(text: str) -> None:
    """Print a warning."""
    say(f"warning: {text}")


class Stopwatch:
    """Measures how long each stage takes."""

    def __init__(self) -> None:
        self._since = perf_counter()

    def lap(self) -> float:
        """Return the seconds since the previous call, or since creation."""
        before, self._since = self._since, perf_counter()
        return self._since - before


class ProgressLines:
    """Progress of a stage as a line every few seconds, for logs; a short stage prints none.

    It has those methods of a tqdm bar that the trainer uses.
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.n = 0
        self._what, self._total, self._unit = what, total, unit
        self._started = self._printed = perf_counter()
        self._figures = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def update(self, done: float) -> None:
        """Count ``done`` more units, and print a line if the last one is old enough."""
        self.n += int(done)
        now = perf_counter()
        seconds = now - self._started
        interval = max(LINE_SECONDS, min(seconds / 3, MAX_LINE_SECONDS))
        if now - self._printed < interval or not 0 < self.n < self._total:
            return
        self._printed = now
        left = seconds * (self._total - self.n) / self.n
        done_of_total = f"{tqdm.format_sizeof(self.n)} of {tqdm.format_sizeof(self._total)}"
        say(
            f"{self._what}: {self.n / self._total:.0%}, about {left:,.0f} s left"
            f" ({done_of_total} {self._unit}{self._figures})"
        )

    def set_postfix(self, figures: Mapping[str, object]) -> None:
        """Add figures to the lines that follow."""
        self._figures = "".join(f"; {name} {value}" for name, value in figures.items())


Bar: TypeAlias = "tqdm[None] | ProgressLines"
"""Progress of a stage: ``update`` it with the units done."""


def progress_bar(what: str, total: int, unit: str, shown: bool) -> Bar:
    """Return a progress bar on a terminal, else lines; neither if not ``shown``.

    ``unit`` is a plural noun: "rows".
    """
    if shown and not sys.stderr.isatty():
        return ProgressLines(what, total, unit)
    return tqdm(
        desc=what, total=total, unit=f" {unit}", unit_scale=True, leave=False, disable=not shown
    )
