"""A trial as requests meet it: whose bundle scores them, and what is counted of both."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from app.metrics.trial import SideCounts
from app.rollout.shares import KeyReader, Shares
from app.scoring.scorer import Scorer
from app.serving.shadow import Shadow

FAILURES = 3
"""Failed runs in a row after which an engine counts as failing."""
log = logging.getLogger(__name__)


class TrialRuns:
    """The runs of the engine of a bundle on trial; it refers to nothing of the bundle."""

    def __init__(self) -> None:
        self._failures = 0
        self.problem: str | None = None
        """The reason for which no more runs should begin."""

    def succeed(self) -> None:
        """Note a run that gave scores."""
        self._failures = 0

    def fail(self, error: BaseException) -> None:
        """Note a run that gave none."""
        self._failures += 1
        if self._failures >= FAILURES:
            self.problem = f"its engine failed {FAILURES} times in a row: {error}"

    def hang(self) -> None:
        """Note a run that does not end."""
        self.problem = "its engine hangs: a run did not end in time"


@dataclass(frozen=True, slots=True, eq=False)
class Canary:
    """A bundle that answers the requests of a share of a key's values."""

    scorer: Scorer
    keys: KeyReader
    shares: Shares
    live_counts: SideCounts
    counts: SideCounts

    def takes(self, key: str | None) -> bool:
        """True if the canary scores what has this key; what has none is the live bundle's."""
        return key is not None and self.shares.takes(key)


Trial = Canary | Shadow
