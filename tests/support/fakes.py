"""Stand-ins for our own protocols; each remembers what it saw."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import numpy as np

from app.errors import ServiceError
from app.features.arrays import Floats
from app.features.graph_inputs import Batch, Scores
from app.scoring.job import Ids, Job, ListedItems
from app.scoring.trace import Trace

Spoil = Callable[[Batch, Scores], Scores]
"""Changes a run's scores, or raises in their place."""


class FakeEngine:
    """A ``Scoring`` engine whose logit of a row is the sum of its indices and its context's.

    ``gate`` is open; while a test holds it shut, a run waits. ``entered`` is set once a run
    has begun. ``spoil`` may alter a run's scores or raise.
    """

    def __init__(self, spoil: Spoil | None = None) -> None:
        self.batches: list[Batch] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.spoil = spoil

    @property
    def rows(self) -> list[int]:
        """The number of rows of each run."""
        return [len(batch.candidate) for batch in self.batches]

    def score(self, batch: Batch) -> Scores:
        self.batches.append(batch)
        self.entered.set()
        self.gate.wait()
        logit = logits(batch)
        scores = Scores(logit, 1 / (1 + np.exp(-logit)))
        return self.spoil(batch, scores) if self.spoil else scores


def logits(batch: Batch) -> Floats:
    """The scores that :class:`FakeEngine` gives for a batch."""
    context = batch.context.sum(1)[batch.row_context]
    return (context + batch.candidate.sum(1)).astype(np.float32)


class FakeRequest:
    """A ``ScoringRequest`` of the running loop that keeps its answer."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.deadline = asyncio.get_running_loop().time() + seconds
        self.encoded = self.begun = self.ended = 0.0
        self.degraded = self.of_page = False
        self.trace: Trace | None = None
        self.listed: ListedItems | None = None
        self.ids: Ids | None = None
        self.rows = 0
        self.top_k: int | None = None
        self.answer: Scores | Exception | None = None

    def departed(self) -> bool:
        return False

    def scored(self, scores: Scores) -> None:
        self.answer = scores

    def scored_alone(self, logit: float, score: float) -> None:
        self.scored(Scores(np.array([logit], np.float32), np.array([score], np.float32)))

    def failed(self, error: Exception) -> None:
        self.answer = error


class FakeBatcher:
    """A ``Batching`` that scores nothing: it keeps each job, and how much of it was ready."""

    company = 1

    def __init__(self) -> None:
        self.submitted: list[tuple[Job, int]] = []
        self.cancelled: list[Job] = []

    def admit(self, rows: int, deadline: float) -> None:
        pass

    def submit(self, job: Job) -> None:
        self.submitted.append((job, job.ready))

    def submit_together(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            try:
                self.submit(job)
            except ServiceError as error:
                job.fail(error)

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job)
