"""The guard of a canary: bounds on its figures beside the other bundle's, over the same time.

Each bound allows for chance: a figure breaks it only where what was counted lies beyond the bound
by ``DEVIATIONS`` standard deviations of the count, or of the mean. So a canary of a few hundred
rows is not stopped by a single slow or failed request, and a bad one within a few hundred.
"""

from __future__ import annotations

from collections import deque
from math import exp, isfinite, sqrt
from typing import Annotated, Literal, NamedTuple, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

WINDOW_SECONDS = 30.0
"""Least time that figures are taken over, once the trial is as old; more where rows are rare."""
SNAPSHOT_SECONDS = 1.0
WINDOW_ROWS = 4
"""A window has at least so many times the rows of the guard."""
DEVIATIONS = 3.0
LATENCY_BOUNDS: NDArray[np.float64] = np.array([1e-4 * 1.15**step for step in range(84)])
"""Upper bounds of the counted seconds, 0.1 ms to 11 s, each 15 % above the one before."""
Cause = Literal[
    "operator",
    "promoted",
    "replaced",
    "failures",
    "p99",
    "mean_score",
    "calibration",
    "engine",
    "loading",
    "contract",
    "gone",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
"""The causes of a trial's end, as metrics name them."""
Range = tuple[Annotated[float, msgspec.Meta(gt=0)], Annotated[float, msgspec.Meta(gt=0)]]


class Guard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The bounds; one that is None is not looked at."""

    rows: Annotated[int, msgspec.Meta(ge=20, le=10_000_000)] = 200
    """Least rows that a bound is judged by; of ``failures`` and ``p99_ratio`` requests."""
    failures: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = 0.01
    """Most requests that may fail, as a share, beyond the share of the other bundle's."""
    p99_ratio: Annotated[float, msgspec.Meta(ge=1)] | None = 3.0
    """Most that the 99th percentile of the seconds may be over the other's."""
    mean_score_ratio: Range | None = (0.67, 1.5)
    """Least and greatest mean score over the other's."""
    calibration: Range | None = None
    """Least and greatest observed clicks over predicted ones, by the events of ``/feedback``."""


def guard_problem(guard: Guard) -> str | None:
    """Return what is wrong with a guard, if anything is."""
    for name, bounds in (
        ("mean_score_ratio", guard.mean_score_ratio),
        ("calibration", guard.calibration),
    ):
        if bounds is not None and bounds[0] > bounds[1]:
            return f"guard.{name}: {bounds[0]:g} is above {bounds[1]:g}"
    return None


class Figures(NamedTuple):
    """Counts of one side of a trial.

    ``means`` and ``squares`` are sums over the ``answered`` requests of their mean score and of its
    square; ``seconds`` counts them by :data:`LATENCY_BOUNDS`. ``events``, ``predicted`` and
    ``clicks`` are of feedback: events with a label, the sum of their scores, and of their labels.
    """

    answered: float
    failed: float
    rows: float
    means: float
    squares: float
    seconds: NDArray[np.float64]
    events: float = 0.0
    predicted: float = 0.0
    clicks: float = 0.0

    def since(self, before: Figures) -> Figures:
        """The counts since then."""
        return Figures(
            self.answered - before.answered,
            self.failed - before.failed,
            self.rows - before.rows,
            self.means - before.means,
            self.squares - before.squares,
            self.seconds - before.seconds,
            self.events - before.events,
            self.predicted - before.predicted,
            self.clicks - before.clicks,
        )

    @property
    def requests(self) -> float:
        """Requests that were answered with scores, or failed."""
        return self.answered + self.failed

    @property
    def mean_score(self) -> float | None:
        """The mean over requests of their mean score."""
        return self.means / self.answered if self.answered else None

    @property
    def p99(self) -> float | None:
        """The seconds within which 99 % were answered, at most 15 % too large."""
        if not self.answered:
            return None
        place = int(np.searchsorted(np.cumsum(self.seconds), 0.99 * self.answered))
        return float(LATENCY_BOUNDS[min(place, len(LATENCY_BOUNDS) - 1)])

    @property
    def relative_error(self) -> float:
        """Standard error of the mean score, as a share of it."""
        if self.answered < 2 or self.means <= 0:
            return float("inf")
        mean = self.means / self.answered
        variance = max(0.0, self.squares / self.answered - mean * mean)
        return sqrt(variance / self.answered) / mean


class Broken(NamedTuple):
    """The bound that a canary breaks."""

    cause: Cause
    reason: str


def broken_bound(guard: Guard, other: Figures, canary: Figures) -> Broken | None:
    """Return the first bound that a canary breaks, if there is one."""
    found = [
        _failures(guard, other, canary),
        _p99(guard, other, canary),
        _mean_score(guard, other, canary),
        _calibration(guard, canary),
    ]
    return next(filter(None, found), None)


def _beyond_chance(found: float, number: float, share: float) -> bool:
    """True if ``found`` of a number are more than a share, and chance does not explain it."""
    expected = number * share
    return found > expected + DEVIATIONS * sqrt(expected) + 1


def _failures(guard: Guard, other: Figures, canary: Figures) -> Broken | None:
    if guard.failures is None or canary.requests < guard.rows:
        return None
    others = other.failed / other.requests if other.requests else 0.0
    if not _beyond_chance(canary.failed, canary.requests, min(1.0, guard.failures + others)):
        return None
    return Broken(
        "failures",
        f"{canary.failed:.0f} of its {canary.requests:.0f} requests failed, {others:.1%} of the"
        f" other bundle's; guard.failures is {guard.failures:g}",
    )


def _p99(guard: Guard, other: Figures, canary: Figures) -> Broken | None:
    if guard.p99_ratio is None or min(other.answered, canary.answered) < guard.rows:
        return None
    others, own = other.p99, canary.p99
    assert others is not None
    assert own is not None
    first = int(np.searchsorted(LATENCY_BOUNDS, others * guard.p99_ratio)) + 1
    if not _beyond_chance(float(canary.seconds[first:].sum()), canary.answered, 0.01):
        return None
    return Broken(
        "p99",
        f"its p99 is {1000 * own:.1f} ms, {1000 * others:.1f} ms the other bundle's;"
        f" guard.p99_ratio is {guard.p99_ratio:g}",
    )


def _mean_score(guard: Guard, other: Figures, canary: Figures) -> Broken | None:
    if guard.mean_score_ratio is None or min(other.rows, canary.rows) < guard.rows:
        return None
    allowed = exp(DEVIATIONS * sqrt(other.relative_error**2 + canary.relative_error**2))
    if not isfinite(allowed):
        return None
    # Neither mean is 0: their relative errors are finite.
    ratio = (canary.means / canary.answered) / (other.means / other.answered)
    least, most = guard.mean_score_ratio
    if ratio / allowed <= most and ratio * allowed >= least:
        return None
    return Broken(
        "mean_score",
        f"its mean score is {ratio:.3f} times the other bundle's; guard.mean_score_ratio is"
        f" [{least:g}, {most:g}]",
    )


def _calibration(guard: Guard, canary: Figures) -> Broken | None:
    """Judge clicks over predicted clicks, of which the variance is at most the predicted sum."""
    if guard.calibration is None or canary.events < guard.rows or canary.predicted <= 0:
        return None
    least, most = guard.calibration
    expected, found = canary.predicted, canary.clicks
    chance = DEVIATIONS * sqrt(expected)
    if found - chance <= most * expected and found + chance >= least * expected:
        return None
    return Broken(
        "calibration",
        f"{found:.0f} clicks came where it had predicted {expected:.1f}; guard.calibration is"
        f" [{least:g}, {most:g}]",
    )


class GuardWatch:
    """A guard over the last of what is counted: a canary that becomes bad is found out too."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._kept: deque[tuple[float, Figures, Figures]] = deque()
        self._first: Figures | None = None

    def look(self, now: float, other: Figures, canary: Figures) -> Broken | None:
        """Judge what has been counted by now, in seconds of any clock."""
        kept = self._kept
        if not kept or now - kept[-1][0] >= SNAPSHOT_SECONDS:
            kept.append((now, other, canary))
        while len(kept) > 1 and self._enough(now, canary, *kept[1]):
            kept.popleft()
        self._first = self._first or canary
        _, others, canarys = kept[0]
        # Feedback comes long after its requests: all of the trial's counts.
        told = canary.since(self._first)
        lately = canary.since(canarys)._replace(
            events=told.events, predicted=told.predicted, clicks=told.clicks
        )
        return broken_bound(self._guard, other.since(others), lately)

    def _enough(
        self, now: float, canary: Figures, then: float, _: Figures, before: Figures
    ) -> bool:
        rows = WINDOW_ROWS * self._guard.rows
        return now - then >= WINDOW_SECONDS and canary.requests - before.requests >= rows
