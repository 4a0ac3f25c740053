"""A scoring request from its body to its job: decode, check, encode, queue.

A long list travels in parts. The scorer encodes 64 candidates, then 128 at a time (twice as many of
columns that are looked up together), and after each part tells the batcher how many rows are ready.
A list of 128 (256) or fewer is one part. The engine's thread scores what is ready while the event
loop encodes the next part, and between steps the loop serves other requests. Scores gather in the
job; the last part completes its answer. Two things end this early:

- A problem in a value: the rest of the list is still read, so that the answer names the problems
  of all candidates, but nothing more is scored and what was scored is dropped.
- A value that needs Redis: parts are held back from then on. All values that the list lacks are
  fetched in one round at its end, and only then are the remaining rows ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from app.features.arrays import Column, Indices, Packed
from app.features.column_encoding import Misses
from app.features.encoder import Encoder, Fetched, settle
from app.features.keys import TextKey
from app.scoring.columns import ColumnReader
from app.scoring.item_lists import CountLookups, ItemLists
from app.scoring.items import Items
from app.scoring.job import WORD_BYTES, Job, ScoringRequest
from app.scoring.limits import Limits
from app.scoring.predict import WORTHWHILE_ROWS, PredictReader
from app.scoring.problems import FieldNames
from app.scoring.profiles import ProfileFiller, Profiles
from app.scoring.rank import Ranking, RankReader
from app.scoring.steps import Steps
from app.scoring.stored_instances import KnownItems
from app.scoring.wire import OnUnknown, RankBody

log = logging.getLogger(__name__)


class Batching(Protocol):
    """The scorer's view of a batcher."""

    company: int
    """Jobs of the last run."""

    def admit(self, rows: int, deadline: float) -> None:
        """Refuse rows that cannot be scored in time.

        Raises:
            Overloaded: the queue is full, or the deadline is out of reach.
        """
        ...

    def submit(self, job: Job) -> None:
        """Score the rows of a job that are ready; call again whenever more are ready."""
        ...

    def submit_together(self, jobs: Sequence[Job]) -> None:
        """Score all rows of several jobs; each caller is told the outcome, a refusal too."""
        ...

    def cancel(self, job: Job) -> None:
        """Give up the rows of a job that are not scored yet; its caller is not told."""
        ...


class VocabularySource(Protocol):
    """The rest of a vocabulary of which the encoder's tables hold only a part."""

    async def fetch(self, misses: Misses, deadline: float) -> Fetched:
        """Return the rows of values that the tables lack.

        Raises:
            VocabularyUnavailable: they are not available.
        """
        ...


class Encoded(NamedTuple):
    """A context and its candidates, as packed rows."""

    context: bytes
    candidates: bytes
    rows: int


class Scorer:
    """Scores requests with one bundle, whose ``version`` is in every answer.

    Each request is checked and encoded on its own: only valid rows reach a batch that it shares
    with others, so one caller's bad input cannot fail another's request.
    """

    def __init__(
        self,
        version: str,
        encoder: Encoder,
        batcher: Batching,
        limits: Limits,
        count_unknown: Callable[[int], None] = lambda count: None,
        vocabulary: VocabularySource | None = None,
        items: Items | None = None,
        on_unknown: OnUnknown = "omit",
        count_items: CountLookups = lambda known, unknown: None,
        profiles: Profiles | None = None,
        item_key: tuple[str, TextKey] | None = None,
    ) -> None:
        """``items`` may be ranked by id; without them no request may name any. ``profiles`` fill
        contexts. ``item_key`` is the field of an instance with an item's id, and how it is read.
        """
        self.version = version
        self.admit = batcher.admit
        self._batcher = batcher
        self._vocabulary = vocabulary
        names = FieldNames(encoder, limits.known_fields_only, count_unknown)
        filler = None if profiles is None else ProfileFiller(profiles)
        known = None
        if items is not None and item_key is not None:
            known = KnownItems(items, *item_key, on_unknown, count_items)
        self._predict = PredictReader(encoder, limits, names, filler, known)
        item_lists = ItemLists(items, encoder.candidate, limits, on_unknown, count_items)
        self._columns = ColumnReader(encoder, names)
        self.limits, self.lists = limits, encoder.lists
        """The limits of a request, and the fields that hold lists."""
        self._rank = RankReader(encoder, limits, names, item_lists, filler)
        self.encoder = encoder
        self.reading = 0
        """Requests that are being decoded, encoded or completed from Redis."""
        self._gathered: list[tuple[bytes, Sequence[Any], ScoringRequest]] = []

    def predict_short(self, body: bytes, request: ScoringRequest) -> bool:
        """Queue the instances of a short and faultless ``/predict`` body, in one step.

        Where callers come together, their rows are encoded together at the end of a turn of the
        event loop, and a request that the queue has no room for is told so there.

        False if it is anything else, or a value may need Redis: nothing has been done then.

        Raises:
            ServiceError: the queue takes no more.
        """
        if self._vocabulary is not None:
            return False
        instances = self._predict.decode_short(body)
        if instances is None:
            return False
        if self._predict.together and self._batcher.company >= WORTHWHILE_ROWS:
            self._gather(body, instances, request)
            return True
        job = self._predict.job(instances, request)
        if job is None:
            return False
        self._batcher.submit(job)
        return True

    def _gather(self, body: bytes, instances: Sequence[Any], request: ScoringRequest) -> None:
        """Let a request wait for others that come in the same turn of the event loop."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._encode_gathered)
        self.reading += 1
        self._gathered.append((body, instances, request))

    def _encode_gathered(self) -> None:
        """Encode what has come in one turn of the event loop, and queue each caller's rows.

        A caller with a wrong value is told by itself; no other one notices.
        """
        gathered, self._gathered = self._gathered, []
        self.reading -= len(gathered)
        try:
            jobs = self._predict.jobs([(instances, request) for _, instances, request in gathered])
        except Exception:
            log.exception("rows cannot be encoded together: each request is encoded by itself")
            jobs = [None] * len(gathered)
        self._batcher.submit_together([job for job in jobs if job is not None])
        for (body, _, request), job in zip(gathered, jobs, strict=True):
            if job is None:
                try:
                    # So short a body takes one step, and waits for nothing.
                    for _ in self.predict(body, request):
                        pass
                except Exception as error:
                    request.failed(error)

    def predict(self, body: bytes, request: ScoringRequest) -> Steps[None]:
        """Queue the instances of a ``/predict`` body.

        Raises:
            ServiceError: the request is refused.
        """
        self.reading += 1
        try:
            misses = self._misses()
            job = yield from self._predict.read(body, request, misses)
            if misses:
                yield from self._complete(job, request, misses)
            self._batcher.submit(job)
        finally:
            self.reading -= 1

    def columns(
        self, columns: Mapping[str, Column], rows: int, request: ScoringRequest
    ) -> Steps[None]:
        """Queue rows that come as columns, the fields of both sides among them.

        Raises:
            ServiceError: the request is refused.
        """
        self.reading += 1
        try:
            misses = self._misses()
            job = yield from self._columns.read(columns, rows, request, misses)
            if misses:
                yield from self._complete(job, request, misses)
            self._batcher.submit(job)
        finally:
            self.reading -= 1

    def rank(self, body: bytes, request: ScoringRequest) -> Steps[None]:
        """Queue the candidates of a ``/rank`` body, part by part.

        Raises:
            ServiceError: the request is refused; scores of its first parts are dropped.
        """
        self.reading += 1
        try:
            misses = self._misses()
            # A reader that kept the way back would be in a cycle with this: see EngineRuns.stop.
            ranking = yield from self._rank.read(body, request, misses, self._settle_context)
            yield from self._score(request, ranking, misses)
        finally:
            self.reading -= 1

    def encoded(
        self,
        decoded: RankBody,
        body: bytes,
        request: ScoringRequest,
        check: Callable[[int], None],
    ) -> Steps[Encoded]:
        """Encode a context and its candidates without scoring them.

        ``decoded`` is the body of a ranking, in ``body``; ``check`` may refuse the number of
        candidates before they are encoded.

        Raises:
            ServiceError: the request is refused.
        """
        misses = self._misses()
        ranking = yield from self._rank.read(body, request, misses, self._settle_context, decoded)
        check(ranking.rows)
        candidates: Packed = yield from ranking.encode(0, ranking.rows)
        ranking.problems.raise_if_any()
        context = ranking.context
        if misses:
            rows = yield from self._fetch(request, misses)
            shapes = self.encoder.shapes
            context, candidates = (
                settle(packed, rows, shape)
                for packed, shape in zip((context, candidates), shapes, strict=True)
            )
        return Encoded(context, bytes(candidates), ranking.rows)

    def _score(
        self, request: ScoringRequest, ranking: Ranking, misses: Misses | None
    ) -> Steps[None]:
        """Encode the candidates, and have the rows scored that are ready."""
        width = self.encoder.candidate.shape.width * WORD_BYTES
        packed = bytearray(ranking.rows * width)
        job = Job(request, [ranking.context], packed, ranking.rows, ready=0)
        job.slots, job.partial = ranking.slots, ranking.partial
        try:
            yield from self._encode_parts(job, packed, ranking, misses)
            if job.answered:
                return
            ranking.problems.raise_if_any()
            if misses:
                yield from self._complete(job, request, misses)
            if misses or not job.rows:
                job.ready = job.rows
                self._batcher.submit(job)
        finally:
            if job.ready < job.rows:
                self._batcher.cancel(job)

    def _encode_parts(
        self, job: Job, packed: bytearray, ranking: Ranking, misses: Misses | None
    ) -> Steps[None]:
        """Encode all parts; submit each at once while the list has neither problems nor misses."""
        width = self.encoder.candidate.shape.width * WORD_BYTES
        size = ranking.part_rows
        first = job.rows if ranking.at_once or job.rows <= size else size // 2
        for start, stop in _parts(job.rows, first, size):
            part = yield from ranking.encode(start, stop)
            if job.answered:
                # Its deadline passed, or the engine failed one of its parts.
                return
            if not ranking.problems.total:
                packed[start * width : stop * width] = part
                if not misses:
                    job.ready = stop
                    self._batcher.submit(job)

    def _misses(self) -> Misses | None:
        """Return where encoding notes the values that the tables lack; None if they lack none."""
        return None if self._vocabulary is None else {}

    def _complete(self, job: Job, request: ScoringRequest, misses: Misses) -> Steps[None]:
        """Fetch the rows of all misses and put them into the job's rows.

        Rows that were ready before are the same afterwards: they had no misses.
        """
        rows = yield from self._fetch(request, misses)
        context, candidate = self.encoder.shapes
        job.contexts = [settle(each, rows, context) for each in job.contexts]
        job.candidates = settle(job.candidates, rows, candidate)

    def _settle_context(
        self, context: bytes, request: ScoringRequest, misses: Misses
    ) -> Steps[bytes]:
        """Fetch the rows of all misses so far, and return the context with them."""
        rows = yield from self._fetch(request, misses)
        return settle(context, rows, self.encoder.context.shape)

    def _fetch(self, request: ScoringRequest, misses: Misses) -> Steps[Indices]:
        assert self._vocabulary is not None
        fetching = asyncio.create_task(self._vocabulary.fetch(misses, request.deadline))
        yield fetching
        rows, degraded = fetching.result()
        request.degraded = request.degraded or degraded
        return rows


def _parts(rows: int, first: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a list's parts of a size, of which the ``first`` has one of its own."""
    start, stop = 0, first
    while start < rows:
        yield start, min(stop, rows)
        start, stop = stop, stop + size
