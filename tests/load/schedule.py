"""The times at which requests are sent: fixed before the first one, whatever the service does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.load.errors import UsageError

MAX_REQUESTS = 20_000_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """A constant rate, bursts, or bursts on top of a constant rate.

    ``rate`` is requests per second, evenly spaced or, with ``poisson``, at random as from many
    independent callers. Every ``every`` seconds ``burst`` requests are due at one moment.
    """

    rate: float = 0.0
    poisson: bool = False
    burst: int = 0
    every: float = 1.0

    def times(self, start: float, end: float, seed: int) -> NDArray[np.float64]:
        """Return ascending moments in [start, end), in seconds.

        Raises:
            UsageError: nothing is due then, or more than :data:`MAX_REQUESTS`.
        """
        expected = (end - start) * (self.rate + self.burst / self.every)
        if expected > MAX_REQUESTS:
            raise UsageError(
                f"about {expected:,.0f} requests are asked for; {MAX_REQUESTS:,} are the most"
            )
        parts = [_even(self.rate, start, end)]
        if self.poisson:
            random = np.random.default_rng(seed)
            parts = [random.uniform(start, end, random.poisson(self.rate * (end - start)))]
        if self.burst:
            parts.append(np.repeat(_even(1 / self.every, start, end), self.burst))
        times: NDArray[np.float64] = np.sort(np.concatenate(parts))
        if not times.size:
            raise UsageError("no request is due in the time of the run")
        return times


def _even(rate: float, start: float, end: float) -> NDArray[np.float64]:
    """Multiples of 1/rate in [start, end)."""
    if not rate:
        return np.zeros(0)
    times = np.arange(math.ceil(start * rate), math.ceil(end * rate), dtype=np.float64) / rate
    # The bounds are products of floats, so that a neighbour of either end may slip in.
    return times[(times >= start) & (times < end)]
