"""``/explain`` in one worker: a body to its explanations, beside the requests that are scored.

An explanation scores hundreds of rows for one caller. So it runs on a thread of its own with a low
priority, a slice of rows at a time, one explanation after the other; its rows have to find room in
the queue as a list's do, though they never stand in it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from app.errors import DeadlinePassed, Overloaded, ServiceError
from app.explain.answers import answer
from app.explain.asked import Asked, as_asked, check_count, read_asked
from app.explain.explanation import Explanation
from app.explain.players import Baseline, FieldWords, Players, Row
from app.off_loop import run_off_loop
from app.scoring.job import ScoringRequest
from app.scoring.scorer import Encoded, Scorer
from app.scoring.steps import Steps

NICENESS = 10
"""Added to the niceness of the thread: others come first where processors are few."""
MOST_WAITING = 8
"""Requests that may wait for one that is being explained."""


class Explains(Protocol):
    """The view of an ``app.explain.explainer.Explainer``."""

    words: FieldWords

    def rows(self, players: Players) -> int:
        """Return how many rows an explanation scores."""
        ...

    def explain(
        self, row: Row, baseline: Baseline, players: Players, between: Callable[[], None]
    ) -> Explanation:
        """Explain a row; ``between`` is called before each slice of work, and may raise."""
        ...


class Explaining:
    """Explains requests with one bundle."""

    def __init__(
        self,
        scorer: Scorer,
        explainer: Explains,
        count: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """``count`` is told the rows that were scored for an explanation."""
        self.version = scorer.version
        self._scorer = scorer
        self._explainer = explainer
        self._count = count
        self._turn = asyncio.Lock()
        self._waiting = 0

    def explain(self, body: bytes, request: ScoringRequest) -> Steps[dict[str, Any]]:
        """Explain the candidates of a body; return the members of the answer.

        Raises:
            ServiceError: the request is refused.
        """
        asked = read_asked(body, self._explainer.words)
        # Refused before anything is looked up.
        self._explainer.words.baseline(asked.baseline)
        self._scorer.reading += 1
        try:
            encoded = yield from self._encoded(asked, body, request)
            rows = encoded.rows * self._explainer.rows(asked.players)
            self._admit(rows, request)
            request.rows = rows
            request.encoded = perf_counter()
            explaining = asyncio.ensure_future(self._in_turn(asked, encoded, request))
            yield explaining
            found = explaining.result()
            self._count(rows)
            return answer(found, request.ids or [None] * len(found))
        finally:
            self._scorer.reading -= 1

    def _encoded(self, asked: Asked, body: bytes, request: ScoringRequest) -> Steps[Encoded]:
        try:
            encoded = yield from self._scorer.encoded(asked.rank, body, request, check_count)
        except ServiceError as error:
            raise (as_asked(error) if asked.alone else error) from None
        return encoded

    def _admit(self, rows: int, request: ScoringRequest) -> None:
        """Refuse rows for which there is no room, in the queue or among those who wait.

        Raises:
            Overloaded: there is none.
        """
        self._scorer.admit(rows, request.deadline)
        if self._waiting > MOST_WAITING:
            raise Overloaded("too many explanations wait")

    async def _in_turn(
        self, asked: Asked, encoded: Encoded, request: ScoringRequest
    ) -> Sequence[Explanation]:
        given_up = threading.Event()
        self._waiting += 1
        try:
            async with asyncio.timeout_at(request.deadline), self._turn:
                request.begun = perf_counter()
                found = await run_off_loop(lambda: self._work(asked, encoded, given_up))
                request.ended = perf_counter()
                return found
        except TimeoutError:
            raise DeadlinePassed("the deadline passed before the row was explained") from None
        finally:
            # The thread ends with the slice that it is in.
            given_up.set()
            self._waiting -= 1

    def _work(
        self, asked: Asked, encoded: Encoded, given_up: threading.Event
    ) -> Sequence[Explanation]:
        """Explain each row, on a thread of its own."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)

        def between() -> None:
            if given_up.is_set():
                raise DeadlinePassed("nobody waits for the explanation")

        context = np.frombuffer(encoded.context, np.int32)
        candidates = np.frombuffer(encoded.candidates, np.int32).reshape(encoded.rows, -1)
        return [
            self._explainer.explain(Row(context, each), asked.baseline, asked.players, between)
            for each in candidates
        ]
