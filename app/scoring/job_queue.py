"""Jobs that wait for a run, in two classes: short requests and long lists.

Long lists are cut; while both classes wait, their runs alternate, so that neither starves the
other.
"""

from __future__ import annotations

from collections import deque

from app.errors import DeadlinePassed
from app.scoring.cost import CostModel
from app.scoring.job import Closed, Job, Piece

SHARED_SECONDS = 0.002
"""Predicted time of a run of long lists while short requests come in, because one may have to
wait for it. Without short requests a run has its largest size."""
SHARING_SECONDS = 0.1
"""Time after a short request in which another one is expected."""


class JobQueue:
    """The jobs whose rows no run has taken; times are by the event loop's clock.

    ``cost`` predicts the time of a run, and so the rows of one that short requests may wait for.
    """

    def __init__(self, max_rows: int, cost: CostModel) -> None:
        self._max_rows = max_rows
        self._cost = cost
        self.short: deque[Job] = deque()
        self.long: deque[Job] = deque()
        self.rows = 0
        """Rows of admitted jobs that no run has taken, those that are not ready among them."""
        self.abandoned = 0
        """Jobs whose rows were dropped so far."""
        self._owes_long = False
        self._short_seen = -SHARING_SECONDS

    def __bool__(self) -> bool:
        """Tell whether any job waits."""
        return bool(self.short or self.long)

    def put(self, job: Job, now: float) -> None:
        """Let a job wait at the end of its class."""
        job.queued = True
        if job.rows <= self._max_rows // 4:
            self.short.append(job)
            self._short_seen = now
        else:
            self.long.append(job)

    def is_shared(self, now: float) -> bool:
        """Tell whether short requests come in."""
        return now - self._short_seen < SHARING_SECONDS

    def next_rows(self, now: float) -> tuple[list[Piece], Closed]:
        """Take the rows of the next run, and tell why it has no more; while both wait, by turns.

        So a short request waits for one run before it, never for a whole list.
        """
        turns = (self.long, self.short) if self._owes_long else (self.short, self.long)
        pieces: list[Piece] = []
        closed: Closed = "drained"
        for queue in turns:
            most = self._long_rows(now) if queue is self.long else self._max_rows
            room = self._fill(queue, pieces, most, now)
            if pieces:
                if not room:
                    closed = "full" if most == self._max_rows else "shared"
                self._owes_long = queue is self.short and bool(self.long)
                break
        return pieces, closed

    def take(self, job: Job, stop: int, queue: deque[Job]) -> None:
        """Note that a run has the rows up to ``stop`` of the first job of a class."""
        self.rows -= stop - job.taken
        job.taken = stop
        if stop == job.ready:
            # No more rows are ready: the job is done, or is submitted again.
            queue.popleft()
            job.queued = False
        elif queue is self.long:
            # Long lists take turns; a short one that was cut keeps its place.
            queue.rotate(-1)

    def drop(self, job: Job) -> None:
        """Drop the untaken rows of a job that is answered, departed or past its deadline.

        It may stand in its class until a run comes to it, without any row.
        """
        if job.taken == job.rows:
            return
        self.rows -= job.rows - job.taken
        job.taken = job.rows
        job.fail(DeadlinePassed("the deadline passed before the rows were scored"))
        self.abandoned += 1

    def _long_rows(self, now: float) -> int:
        """Return the rows of a run of long lists: fewer while short requests come in."""
        if not self.is_shared(now):
            return self._max_rows
        cost = self._cost
        rows = int((SHARED_SECONDS - cost.base) / max(cost.per_row, 1e-9))
        return min(self._max_rows, max(1, self._max_rows // 16, rows))

    def _fill(self, queue: deque[Job], pieces: list[Piece], room: int, now: float) -> int:
        """Move up to ``room`` rows from a class into a run; return how much room is left."""
        while queue and room > 0:
            job = queue[0]
            if not wanted(job, now):
                queue.popleft()
                self.drop(job)
                continue
            start = job.taken
            stop = min(job.ready, start + room)
            pieces.append((job, start, stop))
            room -= stop - start
            self.take(job, stop, queue)
        return room


def wanted(job: Job, now: float) -> bool:
    """Tell whether anybody waits for the scores of a job."""
    return not (job.answered or now > job.caller.deadline or job.caller.departed())
