"""Rows of concurrent callers → few engine runs.

Continuous batching: by default no row waits for others; a batch holds the rows that gathered while
the engine was busy. Limits count rows, not requests. A list that is alone has its next run handed
to the engine ahead of time; it is taken back when anybody else comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from types import TracebackType

import numpy as np

from app.errors import DeadlinePassed, EngineFailed, NotReady, Overloaded, ServiceError
from app.features.graph_inputs import Batch, Scores
from app.scoring import delivery
from app.scoring.cost import CostModel
from app.scoring.engine_runs import EngineRuns, Run
from app.scoring.job import Closed, Job, Piece, Scoring
from app.scoring.job_queue import JobQueue, wanted

SWEEP_SECONDS = 0.05
"""Delay at most until a caller learns that its deadline passed while its rows wait or run."""
LEARNING_RUNS = 3
"""Runs on the engine's thread before the first one on the event loop."""
INLINE_SECONDS = 0.0005
"""Runs predicted to be shorter run on the event loop: they hold it up less than a thread hop."""
WAIT_MARGIN = 1.1
"""Factor on the predicted wait. A request that would end just in time is refused at once: a 429
now is worth more than a 504 after the wait."""
HANG_SECONDS = 10.0
"""Time of a run after which the engine counts as hanging."""
Observe = Callable[[Batch, Scores, float, Closed], None]
"""Called after each run that gave scores, with its seconds and the reason why its batch closed."""


class Flight:
    """One of several runs that may be in flight, and its pieces; none between runs."""

    def __init__(self, runs: EngineRuns) -> None:
        self.runs = runs
        self.pieces: Sequence[Piece] = ()
        self.closed: Closed = "alone"


class MicroBatcher:
    """Gathers rows and gives them to one engine, a batch at a time.

    Use it as an async context manager; leaving it answers all waiting callers with NotReady.
    ``observe`` sees each run that gave scores, ``failed`` the error of each other run. A run that
    takes longer than ``hang_seconds`` may never end: every caller is answered with an error, no
    more runs begin, and ``hung`` is called. Where such a run holds the event loop, nothing can be
    answered: ``stuck`` is called, on another thread.
    """

    def __init__(
        self,
        engine: Scoring,
        context_width: int,
        candidate_width: int,
        max_rows: int = 256,
        max_queue_rows: int = 20_000,
        linger: float = 0.0,
        inline_seconds: float = INLINE_SECONDS,
        observe: Observe = lambda batch, scores, seconds, closed: None,
        failed: Callable[[BaseException], None] = lambda error: None,
        hang_seconds: float = HANG_SECONDS,
        hung: Callable[[], None] = lambda: None,
        stuck: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = perf_counter,
        in_flight: int = 1,
    ) -> None:
        """``clock`` measures what a run holds up if it runs on the event loop.

        For an engine that works on the CPU that is the thread's CPU time: a run on the engine's
        thread also waits for the interpreter and for a processor, and would look too long for
        the loop for as long as it runs elsewhere. So many runs may be ``in_flight`` at once, each
        on a thread of its own.
        """
        self._max_rows = max_rows
        self._max_queue_rows = max_queue_rows
        self._linger = linger
        self._inline_seconds = inline_seconds
        self._observe, self._failed = observe, failed
        self._running: Sequence[Piece] = ()
        # The rows of the only list that the engine's thread takes when its run has ended. Until
        # then they count as queued.
        self._ahead: Piece | None = None
        self._run_ends = 0.0
        self._closed_by: Closed = "alone"
        self._scheduled = False
        self.company = 1
        """Jobs of the last run."""
        self._now_taken = False
        self._closed = self._hangs = False
        self._hung = hung
        self._in_flight = in_flight

        def runs(finish: Callable[[Run], None]) -> EngineRuns:
            words = engine, context_width, candidate_width, finish
            return EngineRuns(*words, hang_seconds, self._end_hung, stuck, clock)

        self._runs = runs(self._finish)
        # Where several runs are in flight, these have them, and ``_runs`` those of the loop alone.
        self._flights = [
            Flight(runs(partial(self._land, number)))
            for number in range(in_flight if in_flight > 1 else 0)
        ]
        self._sweeper: asyncio.TimerHandle | None = None
        self.cost = CostModel()
        self._queue = JobQueue(max_rows, self.cost)
        # Where the clock is that of the runs, one model says both.
        self._loop_cost = self.cost if clock is perf_counter else CostModel()

    async def __aenter__(self) -> MicroBatcher:
        self._loop = asyncio.get_running_loop()
        for each in (self._runs, *(flight.runs for flight in self._flights)):
            each.start(self._loop)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._close()
        for each in (self._runs, *(flight.runs for flight in self._flights)):
            each.stop()

    def _close(self) -> None:
        """Begin no more runs, and answer every caller who waits."""
        self._closed = True
        self._take_back()
        for job in self._waiting():
            job.fail(self._refusal())

    def _waiting(self) -> list[Job]:
        """Return the jobs in the queue and in the engine."""
        queue = self._queue
        return [*queue.short, *queue.long, *(job for job, _, _ in self._running)]

    @property
    def idle(self) -> bool:
        """True if no rows are queued or in the engine."""
        return not (self._running or self._queue)

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the engine."""
        return self._queue.rows

    @property
    def abandoned(self) -> int:
        """Jobs whose rows were dropped because nobody waited for their scores any more."""
        return self._queue.abandoned

    @property
    def _full(self) -> bool:
        """True if no further run may begin."""
        if self._flights:
            return all(flight.pieces for flight in self._flights)
        return bool(self._running)

    def _refusal(self) -> ServiceError:
        """Return the answer to every caller once no more runs begin."""
        if self._hangs:
            return EngineFailed("the engine hangs")
        return NotReady("the service is shutting down")

    def admit(self, rows: int, deadline: float, partial: bool = False) -> None:
        """Refuse rows that cannot be scored in time; of those that are answered in part, the first.

        Raises:
            Overloaded: the queue is full, or the deadline is out of reach.
        """
        queued = self._queue.rows
        if not (queued or self._running):
            # An idle engine takes a request however slow its runs were: the cost model learns
            # from this one whether they still are.
            return
        waiting = queued + rows
        now = self._loop.time()
        wait = self._wait(waiting, now)
        if waiting > self._max_queue_rows and queued:
            raise Overloaded("the scoring queue is full", wait)
        if partial:
            wait = self._wait(queued + min(rows, self._max_rows), now)
        if now + wait > deadline:
            raise Overloaded("the deadline is out of reach", wait, "deadline_out_of_reach")

    def _wait(self, rows: int, now: float) -> float:
        """Predict the time until so many waiting rows are scored."""
        runs = -(-rows // self._max_rows)
        # The time of a run has that in it for which it waits for those beside it.
        queued = self.cost.seconds(rows, runs) / self._in_flight
        return WAIT_MARGIN * (queued + max(0.0, self._run_ends - now))

    def submit(self, job: Job) -> None:
        """Score the ready rows of a job along with those of others; its caller is told the outcome.

        A job whose rows are not all ready is submitted again whenever more are.

        Raises:
            Overloaded: there is no room for it.
        """
        if self._closed:
            job.fail(self._refusal())
            return
        if not job.admitted:
            if job.rows == 0:
                job.deliver(0, Scores(np.zeros(0, np.float32), np.zeros(0, np.float32)))
                return
            self.admit(job.rows, job.caller.deadline, job.partial)
        if job.ready == job.rows:
            job.caller.encoded = perf_counter()
        if not job.admitted:
            if self._may_run_now(job):
                self._now_taken = True
                self._loop.call_soon(self._end_turn)
                pieces = [(job, 0, job.rows)]
                self._closed_by = "alone"
                self._finish(self._runs.run(pieces))
                return
            job.admitted = True
            self._queue.rows += job.rows
        if not job.queued and job.taken < job.rows:
            self._enqueue(job)
        else:
            self._hand_ahead()

    def submit_together(self, jobs: Sequence[Job]) -> None:
        """Score all rows of jobs that come together; each caller is told the outcome.

        The queue is asked once for all of them, and for each only where not all find room.
        """
        if not jobs:
            return
        sizes = [job.rows for job in jobs]
        rows = sum(sizes)
        waiting, now = self._queue.rows + rows, self._loop.time()
        room = waiting <= self._max_queue_rows and not self._closed and all(sizes)
        if not room or now + self._wait(waiting, now) > min([j.caller.deadline for j in jobs]):
            for job in jobs:
                try:
                    self.submit(job)
                except ServiceError as error:
                    job.fail(error)
            return
        encoded = perf_counter()
        self._queue.rows += rows
        for job in jobs:
            job.caller.encoded = encoded
            job.admitted = True
            self._enqueue(job)

    def cancel(self, job: Job) -> None:
        """Give up the rows of a job that are not scored yet; its caller is not told."""
        job.answered = True
        self._make_room_of(job)

    def _make_room_of(self, job: Job) -> None:
        """Drop the rows of a job that no run will take, for others; a run has begun with some."""
        self._take_back()
        handed_ahead = self._ahead is not None and self._ahead[0] is job
        if job.admitted and not handed_ahead:
            self._queue.drop(job)

    def _enqueue(self, job: Job) -> None:
        if self._ahead is not None and self._ahead[0] is not job:
            self._take_back()
        self._queue.put(job, self._loop.time())
        if self._sweeper is None:
            self._sweep_later()
        if not (self._scheduled or self._full):
            self._schedule()
        self._hand_ahead()

    def _may_run_now(self, job: Job) -> bool:
        """Tell whether a job may run at once because no others come that could share its run.

        So it is while runs have one job each. At most one job runs so in a turn of the event loop:
        a second one in the same turn shows that callers come together.
        """
        return (
            self.company == 1
            and not self._now_taken
            and not (self._running or self._scheduled or self._linger)
            and job.ready == job.rows <= self._max_rows
            and self._is_quick(job.rows)
            and not job.caller.departed()
            and self._loop.time() <= job.caller.deadline
        )

    def _is_quick(self, rows: int) -> bool:
        """Tell whether a run is predicted, from enough runs, to be short enough for the loop."""
        cost = self._loop_cost
        return cost.runs >= LEARNING_RUNS and cost.seconds(rows) <= self._inline_seconds

    def _end_turn(self) -> None:
        self._now_taken = False

    def _schedule(self) -> None:
        """Start a run soon; rows that arrive in the same turn of the loop join it.

        Where only long lists wait it starts at once: they fill a run by themselves, and the loop
        may be encoding the rest of one for a while.
        """
        if self._scheduled or self._full:
            return
        if self._linger:
            self._scheduled = True
            self._loop.call_later(self._linger, self._run)
        elif self._queue.long and not self._queue.short and not self._is_quick(self._max_rows):
            self._run()
        else:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        """Score the next batch: on the loop where that is quick, else on the engine's thread."""
        self._scheduled = False
        pieces, closed = self._queue.next_rows(self._loop.time())
        if not pieces:
            return
        self._closed_by = closed
        self._running = [*self._running, *pieces] if self._flights else pieces
        self.company = len(pieces)
        rows = sum(stop - start for _, start, stop in pieces)
        # While the rest of a list is being encoded, the loop has other work to do.
        growing = any(job.ready < job.rows for job, _, _ in pieces)
        if self._is_quick(rows) and not growing:
            self._finish(self._runs.run(pieces))
        else:
            self._run_ends = self._loop.time() + self.cost.seconds(rows)
            # Set now and not after the run, which may never end.
            begun = perf_counter()
            for job, _, _ in pieces:
                job.caller.begun = job.caller.begun or begun
            if not self._flights:
                self._runs.begin(pieces)
                self._hand_ahead()
                return
            flight = next(each for each in self._flights if not each.pieces)
            flight.pieces, flight.closed = pieces, self._closed_by
            flight.runs.begin(pieces)
            if self._queue:
                self._schedule()

    def _hand_ahead(self) -> None:
        """Give the engine's thread the next rows of a list that it has a run of, and that is alone.

        So it does not wait for the event loop between two runs.
        """
        queue = self._queue
        if self._ahead or len(self._running) != 1 or len(queue.long) != 1 or queue.short:
            return
        if self._flights:
            return  # Its run begins beside the one that there is.
        job, now = queue.long[0], self._loop.time()
        if job is not self._running[0][0] or self._closed or not wanted(job, now):
            return
        start, stop = job.taken, min(job.ready, job.taken + self._max_rows)
        enough = job.ready == job.rows or stop - start > self._max_rows // 4
        alone = not queue.is_shared(now)
        if stop > start and enough and alone and self.cost.runs >= LEARNING_RUNS:
            self._ahead = job, start, stop
            self._runs.hand_ahead([self._ahead])

    def _take_back(self) -> None:
        """Take the rows back that were handed ahead, unless their run has begun."""
        if self._ahead is not None and self._runs.take_back():
            self._ahead = None

    def _begun_ahead(self) -> Sequence[Piece]:
        """Return the run that the engine's thread has begun by itself, with what it was handed."""
        self._take_back()
        if self._ahead is None:
            return ()
        (job, start, stop), self._ahead = self._ahead, None
        self._closed_by = "full" if stop - start == self._max_rows else "drained"
        self._run_ends = self._loop.time() + self.cost.seconds(stop - start)
        self._queue.take(job, stop, self._queue.long)
        if job.answered:
            # It was given up meanwhile.
            self._queue.drop(job)
        return [(job, start, stop)]

    def _land(self, number: int, run: Run) -> None:
        """Finish one of several runs in flight."""
        flight = self._flights[number]
        flight.pieces, self._closed_by = (), flight.closed
        self._finish(run)

    def _finish(self, run: Run) -> None:
        """Answer every caller of a run, then start the next one."""
        closed = self._closed_by
        if self._flights:
            self._running = [piece for flight in self._flights for piece in flight.pieces]
        else:
            self._running = self._begun_ahead()
        outcome, begun, ended = run.outcome, run.begun, run.ended
        for job, _, _ in run.pieces:
            caller = job.caller
            caller.begun = caller.begun or begun
            caller.ended = ended
        if isinstance(outcome, BaseException):
            self._failed(outcome)
            delivery.fail(run.pieces, outcome)
        elif run.batch is not None:
            rows = delivery.deliver(run.pieces, outcome)
            self.cost.observe(rows, run.ended - run.begun)
            if self._loop_cost is not self.cost:
                self._loop_cost.observe(rows, run.work)
            self._observe(run.batch, outcome, run.ended - run.begun, closed)
        if self._running and not self._flights:
            self._hand_ahead()
        elif self._queue and not self._closed:
            self._schedule()

    def _sweep(self) -> None:
        """Answer callers whose deadline passed; replace the engine's thread if it has ended."""
        now = self._loop.time()
        waiting = self._waiting()
        for job in waiting:
            if now > job.caller.deadline:
                job.fail(DeadlinePassed("the deadline passed before the rows were scored"))
                self._make_room_of(job)
        self._sweeper = None
        if not self._closed:
            for flight in self._flights:
                flight.runs.look_after_thread(flight.pieces)
            if not self._flights:
                self._runs.look_after_thread(self._running)
        if waiting:
            self._sweep_later()

    def _sweep_later(self) -> None:
        """Sweep in a while: an idle batcher does not wake the process."""
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _end_hung(self) -> None:
        """Answer every caller and begin no more runs: the engine's one may never end."""
        if not self._closed:
            self._hangs = True
            self._close()
            self._hung()
