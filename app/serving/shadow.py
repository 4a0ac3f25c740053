"""A shadow: it scores requests again, after their answers, in time that nobody needs."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np

from app.errors import CtrError
from app.features.graph_inputs import Scores
from app.metrics.shadow import ShadowCounts
from app.rollout.comparison import Answer, compare
from app.scoring.job import Ids, ListedItems
from app.scoring.scorer import Scorer
from app.scoring.steps import Steps
from app.scoring.trace import Trace

QUEUE_REQUESTS, QUEUE_BYTES = 64, 8 * 2**20
"""Requests that wait for idle time at most, and the bytes of their bodies."""
PATIENCE_SECONDS = 1.0
"""Time after which a request that found no idle time is dropped."""
SCORING_SECONDS = 10.0
LOOK_SECONDS = 0.002
log = logging.getLogger(__name__)


class Idle(Protocol):
    """The holder of what must not be held up."""

    @property
    def idle(self) -> bool:
        """True if no request is being read, queued or scored."""
        ...


class Asked(NamedTuple):
    """A request that was answered."""

    ranked: bool
    body: bytes
    answer: Answer
    top_k: int | None
    engine_seconds: float


class _ShadowCaller:
    """Takes the scores of a shadow."""

    listed: ListedItems | None = None
    ids: Ids | None = None
    top_k: int | None = None
    trace: Trace | None = None
    degraded = without_profiles = of_page = False
    encoded = begun = ended = 0.0
    rows = 0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.deadline = loop.time() + SCORING_SECONDS
        self.outcome: asyncio.Future[Scores] = loop.create_future()

    def departed(self) -> bool:
        return self.outcome.done()

    def scored(self, scores: Scores) -> None:
        if not self.outcome.done():
            self.outcome.set_result(scores)

    def scored_alone(self, logit: float, score: float) -> None:
        self.scored(Scores(np.array([logit], np.float32), np.array([score], np.float32)))

    def failed(self, error: Exception) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)


class Shadow:
    """Scores a share of the requests with a bundle on trial, one at a time, whenever the bundle
    in use has nothing to do. What finds no such time is dropped and counted.
    """

    def __init__(self, scorer: Scorer, share: float, counts: ShadowCounts, idle: Idle) -> None:
        self.counts = counts
        self._scorer = scorer
        self._share = share
        self._idle = idle
        self._waiting: deque[tuple[float, Asked]] = deque()
        self._bytes = 0
        self._come = asyncio.Event()
        self._task = asyncio.create_task(self._work())

    def wants(self) -> bool:
        """True if the next request is one of the share."""
        return random.random() < self._share

    def offer(self, asked: Asked) -> None:
        """Take a request whose answer is out, if there is room."""
        if len(self._waiting) >= QUEUE_REQUESTS or self._bytes + len(asked.body) > QUEUE_BYTES:
            self.counts.count("dropped")
            return
        self._waiting.append((perf_counter(), asked))
        self._bytes += len(asked.body)
        self._come.set()

    def close(self) -> None:
        """Score no more."""
        self._task.cancel()

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._come.clear()
                await self._come.wait()
            begun, asked = self._waiting.popleft()
            self._bytes -= len(asked.body)
            try:
                if await self._found_idle(begun + PATIENCE_SECONDS):
                    await self._score(asked)
                else:
                    self.counts.count("dropped")
            except Exception as error:
                self.counts.count("failed")
                if not isinstance(error, CtrError):
                    log.exception("a shadow failed")

    async def _found_idle(self, end: float) -> bool:
        """Wait for a moment without requests; False if none has come in time."""
        while not self._idle.idle:
            if perf_counter() > end:
                return False
            await asyncio.sleep(LOOK_SECONDS)
        return True

    async def _score(self, asked: Asked) -> None:
        caller = _ShadowCaller(asyncio.get_running_loop())
        steps: Steps[None] = (
            self._scorer.rank(asked.body, caller)
            if asked.ranked
            else self._scorer.predict(asked.body, caller)
        )
        try:
            for waiting in steps:
                if waiting is not None:
                    await waiting
                # A step holds the event loop for a short time; requests go before the next one.
                await asyncio.sleep(0)
                await self._found_idle(perf_counter() + PATIENCE_SECONDS)
            scores = await caller.outcome
        finally:
            steps.close()
            caller.outcome.cancel()
        found = compare(asked.answer, Answer(scores, caller.ids), asked.top_k, asked.ranked)
        if found is None:
            self.counts.count("unlike")
        else:
            self.counts.compared(found, asked.engine_seconds, caller.ended - caller.begun)
