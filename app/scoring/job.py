"""Jobs: the rows of one caller in the queue, how they become a batch, and the protocols around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np

from app.errors import DeadlinePassed
from app.features.arrays import Floats, Indices, Packed
from app.features.graph_inputs import Batch, Scores
from app.scoring.trace import Trace

Closed = Literal["alone", "full", "shared", "drained"]
CLOSED: tuple[Closed, ...] = get_args(Closed)
"""The reasons why a batch takes no more rows.

- alone: its job was the only one and ran at once.
- full: the batch has its largest size.
- shared: the batch has the largest size of a run of long lists while short requests come in.
- drained: no more rows of its class are queued.
"""
NO_SLOT = -1
"""Stands for the slot of a row whose item part is not held."""
WORD_BYTES = 4
"""Bytes of a word of an encoded row."""
Ids = list[int | str | None]
"""The caller's own ids of candidates."""


class Scoring(Protocol):
    """The batcher's view of an engine: a batch in, scores out. A call may block."""

    def score(self, batch: Batch) -> Scores:
        """Score every row.

        Raises:
            EngineFailed: there is not one score for each row.
        """
        ...


class Caller(Protocol):
    """The caller of a job; told on the event loop only, and asked there but for ``departed``."""

    deadline: float
    """Time after which an answer is useless, on the loop's clock."""
    encoded: float
    """Time at which all rows were ready, by ``perf_counter``; 0 until then, like the next two."""
    begun: float
    """Time at which the first run with rows of the job began."""
    ended: float
    """Time at which the last run so far ended."""
    trace: Trace | None
    """Takes the rows as they were scored; None where they are not logged."""
    of_page: bool
    """Somebody tries the rows on a page of the service: they say nothing of what callers send."""

    def departed(self) -> bool:
        """Tell whether the caller has gone; on any thread."""
        ...

    def scored(self, scores: Scores) -> None:
        """Take the finite scores of all rows, in their order.

        Of a job that may be answered in part they may be those of the first rows.
        """
        ...

    def scored_alone(self, logit: float, score: float) -> None:
        """Take the finite scores of the only row: as :meth:`scored`, without arrays."""
        ...

    def failed(self, error: Exception) -> None:
        """Take the reason why there are no scores."""
        ...


class ListedItems(NamedTuple):
    """Items of the catalogue, as a request lists them; the request's ``ids`` are those of rows."""

    places: Sequence[int] | None
    """The place of each row in the request's list; None where all of the catalogue is ranked."""
    unknown: Sequence[tuple[int, int | str]]
    """Place and id of each id that is not in the catalogue."""
    unknown_last: bool
    """Unknown ids come last in the ranking, without a score."""


class ScoringRequest(Caller, Protocol):
    """A caller, with what its answer says besides scores; set before any row is scored."""

    listed: ListedItems | None
    """The candidates that are items of the catalogue, where the request names items."""
    degraded: bool
    """Values may count as OOV because Redis did not answer."""
    without_profiles: bool
    """Fields may be missing because the store of profiles did not answer."""
    ids: Ids | None
    rows: int
    top_k: int | None


class Slots(NamedTuple):
    """The slot of each row's item part, below zero where there is none."""

    of_rows: Indices
    lease: object
    """Keeps the slots as they are for as long as it is there."""


class Job:
    """The rows of one caller on their way through the queue. Each job is answered exactly once.

    ``contexts`` holds packed context rows, ``candidates`` the packed candidate rows one after
    the other, ``row_context`` the context of each row (None: all have the first).

    A job belongs to the event loop: only code on the loop changes its attributes. Two of them are
    shared with the engine's thread, which reads ``contexts``, ``row_context`` and the rows of
    ``candidates`` that a batch has taken. Hence the rule for a list that is still being encoded:
    the scorer writes only rows from ``ready`` on, then raises ``ready``, then submits the job; the
    batcher takes only rows below ``ready``. No row changes once it is ready.
    """

    # The batcher's: whether its rows count in the queue, whether it stands in a queue, and how
    # many rows batches have taken. A job begins with this; only what differs is kept for each.
    admitted = queued = answered = False
    taken = done = 0
    first = 0
    """Rows before the first one without a score; runs in flight may end in any order."""
    later: dict[int, int] | None = None
    """Ends of the ranges with scores behind that row, by their starts."""
    logit: Floats | None = None
    score: Floats | None = None
    partial = False
    """At its deadline the scores so far are an answer."""
    slots: Slots | None = None
    """The item parts of its candidates, where they are items of the catalogue."""

    def __init__(
        self,
        caller: Caller,
        contexts: list[bytes],
        candidates: Packed,
        rows: int,
        row_context: list[int] | None = None,
        ready: int | None = None,
    ) -> None:
        """Take the rows; all of them are ready unless ``ready`` says how many."""
        self.caller = caller
        self.contexts = contexts
        self.candidates = candidates
        self.rows = rows
        self.row_context = row_context
        self.ready = rows if ready is None else ready

    def deliver(self, start: int, scores: Scores) -> None:
        """Take the finite scores of the rows from ``start`` on; answer when all are there."""
        count = len(scores.logit)
        if count != self.rows:
            if self.logit is None or self.score is None:
                self.logit = np.empty(self.rows, np.float32)
                self.score = np.empty(self.rows, np.float32)
            self.logit[start : start + count] = scores.logit
            self.score[start : start + count] = scores.score
            self._note(start, start + count)
            scores = Scores(self.logit, self.score)
        self.done += count
        if self.done == self.rows and not self.answered:
            self._tell(scores)

    def deliver_alone(self, logit: float, score: float) -> None:
        """Take the finite scores of a job's only row, and answer."""
        self.done = 1
        if not self.answered:
            self.answered = True
            if self.caller.trace is not None:
                self._trace(self.caller.trace)
            self.caller.scored_alone(logit, score)

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless the caller has its answer.

        Where the deadline passed, the scores of the first rows may be one.
        """
        if self.answered:
            return
        done, late = self.first, isinstance(error, DeadlinePassed)
        if late and self.partial and done and self.logit is not None and self.score is not None:
            self._tell(Scores(self.logit[:done], self.score[:done]))
        else:
            self.answered = True
            self.caller.failed(error)

    def _note(self, start: int, stop: int) -> None:
        """Note which rows have scores."""
        if start == self.first:
            self.first = stop
            while self.later and self.first in self.later:
                self.first = self.later.pop(self.first)
        else:
            self.later = self.later or {}
            self.later[start] = stop

    def _tell(self, scores: Scores) -> None:
        self.answered = True
        if self.caller.trace is not None:
            self._trace(self.caller.trace)
        self.caller.scored(scores)

    def _trace(self, trace: Trace) -> None:
        trace.take_rows(self.contexts, self.candidates, self.row_context)


Piece = tuple[Job, int, int]
"""A job and the range of its rows that a batch holds."""


def assemble(pieces: Sequence[Piece], context_width: int, candidate_width: int) -> Batch:
    """Join the rows of all pieces into one batch; equal contexts become one row."""
    if len(pieces) == 1 and pieces[0][0].row_context is None:
        return _of_one_list(*pieces[0], context_width, candidate_width)
    places: dict[bytes, int] = {}
    row_context: list[int] = []
    candidates: list[Packed] = []
    stride = candidate_width * WORD_BYTES
    of_page = False
    for job, start, stop in pieces:
        if job.caller.of_page:
            of_page = True
        if job.row_context is None:
            row_context += [places.setdefault(job.contexts[0], len(places))] * (stop - start)
        else:
            # A part of a long job takes no contexts of its other parts along.
            of_rows = job.row_context[start:stop]
            own = {
                number: places.setdefault(job.contexts[number], len(places))
                for number in dict.fromkeys(of_rows)
            }
            row_context += map(own.__getitem__, of_rows)
        whole = stop - start == job.rows
        candidates.append(
            job.candidates if whole else memoryview(job.candidates)[start * stride : stop * stride]
        )
    return Batch(
        np.frombuffer(b"".join(places), np.int32).reshape(-1, context_width),
        np.frombuffer(b"".join(candidates), np.int32).reshape(-1, candidate_width),
        np.array(row_context, np.int32),
        _slots(pieces),
        of_page,
    )


def _of_one_list(job: Job, start: int, stop: int, context_width: int, width: int) -> Batch:
    """Return the batch of rows of one job, which have one context; the rows are not copied."""
    words = np.frombuffer(
        job.candidates, np.int32, (stop - start) * width, start * width * WORD_BYTES
    )
    return Batch(
        np.frombuffer(job.contexts[0], np.int32).reshape(1, context_width),
        words.reshape(stop - start, width),
        np.zeros(stop - start, np.int32),
        _slots([(job, start, stop)]),
        job.caller.of_page,
    )


def _slots(pieces: Sequence[Piece]) -> Indices | None:
    """Return the slots of all rows of a batch; None if no row has one."""
    if all(job.slots is None for job, _, _ in pieces):
        return None
    return np.concatenate(
        [
            np.full(stop - start, NO_SLOT, np.int32)
            if job.slots is None
            else job.slots.of_rows[start:stop]
            for job, start, stop in pieces
        ]
    )
