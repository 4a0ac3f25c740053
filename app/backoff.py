"""Back-off: pauses between tries of something that fails."""

from __future__ import annotations


class Backoff:
    """Pauses that double from ``first`` to ``longest`` seconds, one for each failure in a row.

    With ``at_once`` the first failure has no pause: the second one has the first pause.
    """

    def __init__(self, first: float, longest: float, at_once: bool = False) -> None:
        self._first, self._longest = first, longest
        self._free = 1 if at_once else 0
        self.failures = 0

    @property
    def pause(self) -> float:
        """Seconds to wait before the next try; 0 while nothing has failed."""
        doublings = self.failures - self._free - 1
        if doublings < 0:
            return 0.0
        # A large exponent overflows; long before that the pause is the longest.
        return min(self._longest, self._first * 2.0 ** min(doublings, 64))

    def fail(self) -> float:
        """Count a failure and return the pause that it calls for, in seconds."""
        self.failures += 1
        return self.pause

    def reset(self) -> None:
        """Start over: a try has succeeded."""
        self.failures = 0
