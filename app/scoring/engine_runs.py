"""Runs batches on one engine: on the event loop, or on the engine's own thread."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import NamedTuple

from app.errors import EngineFailed
from app.features.graph_inputs import Batch, Scores
from app.scoring.job import Piece, Scoring, assemble
from app.scoring.run_watch import RunWatch

WAITING_SHARE = 0.05
"""Share of the time of recent runs, by the engine's clock, below which they did not work but wait
for a device or a lock: they would wait on the event loop too. A run that only has to wait for a
processor now and then is above it, on a busy machine too."""
KEPT_SHARE = 0.98
"""Weight of earlier runs beside each later one."""
log = logging.getLogger(__name__)


class Run(NamedTuple):
    """A run that has ended. Times are by ``perf_counter``."""

    pieces: Sequence[Piece]
    batch: Batch | None
    """None if the rows could not be assembled."""
    outcome: Scores | BaseException
    begun: float
    ended: float
    work: float
    """Seconds for which it holds the event loop if it runs there, by the engine's clock."""


class EngineRuns:
    """Runs one batch at a time; ``finish`` is called on the loop with each run of the thread.

    A run that takes longer than ``hang_seconds`` may never end. ``hung`` is called on the loop;
    where the run holds the loop, ``stuck`` is called on another thread.
    """

    def __init__(
        self,
        engine: Scoring,
        context_width: int,
        candidate_width: int,
        finish: Callable[[Run], None],
        hang_seconds: float,
        hung: Callable[[], None],
        stuck: Callable[[], None],
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._recent_work = self._recent_seconds = 0.0
        # At most one batch; the thread and the loop take it out in one step of the interpreter.
        self._next: deque[Sequence[Piece]] = deque()
        self._widths = context_width, candidate_width
        self._finish = finish
        self._watch = RunWatch(hang_seconds, self._note_hang)
        self._hung, self._stuck = hung, stuck
        self._missing = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the engine's thread and the watch."""
        self._loop = loop
        self._start_thread()
        self._watch.start()

    def stop(self) -> None:
        """End the thread after its run, and the watch at once."""
        self._watch.stop()
        self._waiting.put(None)
        # What is in use is frozen, so the collector frees no cycles of it. These refer back to the
        # batcher, and a cycle would keep a replaced bundle's engine.
        self._finish = _drop
        self._hung = self._stuck = _do_nothing

    def begin(self, pieces: Sequence[Piece]) -> None:
        """Run a batch on the engine's thread."""
        self._waiting.put(pieces)

    def hand_ahead(self, pieces: Sequence[Piece]) -> None:
        """Let the thread go on with a batch as soon as its run ends, unless that fails.

        What the thread leaves, because it has nothing to do already or the caller has gone, is to
        be taken back.
        """
        self._next.append(pieces)

    def take_back(self) -> bool:
        """Take back the batch that was handed ahead; False if the thread has begun with it."""
        try:
            self._next.pop()
        except IndexError:
            return False
        return True

    def run(self, pieces: Sequence[Piece], on_loop: bool = True) -> Run:
        """Run a batch here."""
        outcome: Scores | BaseException
        batch: Batch | None = None
        begun, start = perf_counter(), self._clock()
        self._watch.begin(on_loop)
        try:
            batch = assemble(pieces, *self._widths)
            outcome = self._engine.score(batch)
            if not len(outcome.logit) == len(outcome.score) == len(batch.candidate):
                outcome = EngineFailed("the engine did not return one score for each row")
        except BaseException as error:
            # SystemExit too: it would end the engine's thread, or the event loop.
            outcome = error
        self._watch.end()
        work, ended = self._clock() - start, perf_counter()
        self._recent_work = KEPT_SHARE * self._recent_work + work
        self._recent_seconds = KEPT_SHARE * self._recent_seconds + (ended - begun)
        if self._recent_work < WAITING_SHARE * self._recent_seconds:
            work = ended - begun
        return Run(pieces, batch, outcome, begun, ended, work)

    def look_after_thread(self, running: Sequence[Piece]) -> None:
        """Replace the thread if it has ended, and fail the batch that it was running."""
        if self._thread.is_alive():
            self._missing = False
        elif not self._missing:
            # The outcome of its last run may still be on its way to the loop.
            self._missing = True
        else:
            log.error("the engine's thread has ended; another one takes its place")
            self._missing = False
            self._start_thread()
            if running:
                now = perf_counter()
                lost = EngineFailed("the engine's thread has ended")
                self._finish(Run(running, None, lost, now, now, 0.0))

    def _start_thread(self) -> None:
        # A daemon: a run that never ends must not keep the process from ending.
        self._waiting: SimpleQueue[Sequence[Piece] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, args=[self._waiting], name="engine", daemon=True)
        self._thread.start()

    def _work(self, waiting: SimpleQueue[Sequence[Piece] | None]) -> None:
        """Run batch after batch on the engine's thread; hand each outcome to the loop."""
        pieces = waiting.get()
        while pieces is not None:
            run = self.run(pieces, on_loop=False)
            # Taken before the loop is told of the run: it takes back what is still there then.
            following = self._following() if isinstance(run.outcome, Scores) else None
            try:
                self._loop.call_soon_threadsafe(self._finish, run)
            except RuntimeError:
                return  # The loop is closed; all callers had their answers before that.
            pieces = following or waiting.get()

    def _following(self) -> Sequence[Piece] | None:
        """Take the batch that was handed ahead, unless nobody waits for it any more."""
        with suppress(IndexError):
            if not any(job.answered or job.caller.departed() for job, _, _ in self._next[-1]):
                return self._next.pop()
        return None

    def _note_hang(self, run: int, on_loop: bool) -> None:
        """On the watching thread: a run does not end."""
        if on_loop:
            self._stuck()
            return
        with suppress(RuntimeError):  # The loop is closed: the process is about to end.
            self._loop.call_soon_threadsafe(self._confirm_hang, run)

    def _confirm_hang(self, run: int) -> None:
        if self._watch.run == run:
            self._hung()


def _drop(run: Run) -> None:
    """Forget a run that ends after the end: its callers have their answers."""


def _do_nothing() -> None:
    pass
