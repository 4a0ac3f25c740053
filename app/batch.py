"""What goes into an engine run, what comes out, and the callers who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int32]
Floats = NDArray[np.float32]


class Batch(NamedTuple):
    """U contexts [U, Wc], N candidates [N, Wi], and the context [N] of each candidate.

    A row holds the single-valued slots, then the padded places of the list slots.
    """

    context: Indices
    candidate: Indices
    row_context: Indices


class Scores(NamedTuple):
    """One logit and one score for each candidate row, in their order."""

    logit: Floats
    score: Floats


class Scoring(Protocol):
    """What the batcher needs of an engine: a batch in, scores out; it may block."""

    def score(self, batch: Batch) -> Scores:
        """Score every row.

        Raises:
            EngineFailed: there is not one score for each row.
        """
        ...


class Job:
    """One caller's rows on their way through the queue.

    ``contexts`` holds packed context rows, ``candidates`` the packed candidate rows one after
    the other, ``row_context`` the context of each row (None: all have the first).
    ``deadline`` is on the loop's clock; ``departed`` tells whether the caller has gone.
    """

    __slots__ = ("candidates", "contexts", "deadline", "departed", "done", "future", "logit",
                 "row_context", "rows", "score", "taken")  # fmt: skip

    def __init__(
        self,
        contexts: list[bytes],
        candidates: bytes | memoryview,
        rows: int,
        row_context: list[int] | None,
        deadline: float,
        departed: Callable[[], bool],
    ) -> None:
        self.contexts = contexts
        self.candidates = candidates
        self.rows = rows
        self.row_context = row_context
        self.deadline = deadline
        self.departed = departed
        self.taken = 0
        self.done = 0
        self.logit: NDArray[np.float32] | None = None
        self.score: NDArray[np.float32] | None = None
        self.future: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()

    def deliver(self, start: int, scores: Scores) -> None:
        """Take the finite scores of the rows from ``start`` on; answer when all are there."""
        count = len(scores.logit)
        if count == self.rows:
            self.logit, self.score = scores.logit, scores.score
        else:
            if self.logit is None or self.score is None:
                self.logit = np.empty(self.rows, np.float32)
                self.score = np.empty(self.rows, np.float32)
            self.logit[start : start + count] = scores.logit
            self.score[start : start + count] = scores.score
        self.done += count
        if self.done == self.rows and not self.future.done():
            self.future.set_result(Scores(self.logit, self.score))

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless the caller has its answer or has gone."""
        if not self.future.done():
            self.future.set_exception(error)
