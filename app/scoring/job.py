"""Jobs, the rows that callers wait for, and what they need of an engine."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import numpy as np

from app.features.arrays import Floats, Packed
from app.features.graph_inputs import Batch, Scores

Closed = Literal["alone", "full", "shared", "drained"]
CLOSED: tuple[Closed, ...] = get_args(Closed)
"""Why a batch took no more rows: its job ran at once, waiting for nobody; it had as many as it
may; it had as many as a run of long lists may while short requests come in; no more rows of its
class were there."""


class Scoring(Protocol):
    """What the batcher needs of an engine: a batch in, scores out; it may block."""

    def score(self, batch: Batch) -> Scores:
        """Score every row.

        Raises:
            EngineFailed: there is not one score for each row.
        """
        ...


class Caller(Protocol):
    """Whoever waits for a job's scores; asked and told on the event loop only."""

    deadline: float
    """When the answer is worth nothing any more, on the loop's clock."""
    encoded: float
    """When all its rows were ready, by ``perf_counter``; 0 until then, like the next two."""
    begun: float
    """When the first run that had rows of it began."""
    ended: float
    """When the last one so far ended."""

    def departed(self) -> bool:
        """Whether nobody waits any longer."""
        ...

    def scored(self, scores: Scores) -> None:
        """Take the finite scores of all rows, in their order."""
        ...

    def failed(self, error: Exception) -> None:
        """Take the reason why there are none."""
        ...


class Job:
    """One caller's rows on their way through the queue; it is answered exactly once.

    ``contexts`` holds packed context rows, ``candidates`` the packed candidate rows one after
    the other, ``row_context`` the context of each row (None: all have the first). Rows up to
    ``ready`` are there; a batch takes no others.
    """

    __slots__ = ("admitted", "answered", "caller", "candidates", "contexts", "done", "logit",
                 "queued", "ready", "row_context", "rows", "score", "taken")  # fmt: skip

    def __init__(
        self,
        caller: Caller,
        contexts: list[bytes],
        candidates: Packed,
        rows: int,
        row_context: list[int] | None = None,
        ready: int | None = None,
    ) -> None:
        """Take the rows; all of them are ready where nothing else is said."""
        self.caller = caller
        self.contexts = contexts
        self.candidates = candidates
        self.rows = rows
        self.row_context = row_context
        self.ready = rows if ready is None else ready
        self.admitted = self.queued = False
        self.answered = False
        self.taken = 0
        self.done = 0
        self.logit: Floats | None = None
        self.score: Floats | None = None

    def deliver(self, start: int, scores: Scores) -> None:
        """Take the finite scores of the rows from ``start`` on; answer when all are there."""
        count = len(scores.logit)
        if count != self.rows:
            if self.logit is None or self.score is None:
                self.logit = np.empty(self.rows, np.float32)
                self.score = np.empty(self.rows, np.float32)
            self.logit[start : start + count] = scores.logit
            self.score[start : start + count] = scores.score
            scores = Scores(self.logit, self.score)
        self.done += count
        if self.done == self.rows and not self.answered:
            self.answered = True
            self.caller.scored(scores)

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless the caller has its answer."""
        if not self.answered:
            self.answered = True
            self.caller.failed(error)
