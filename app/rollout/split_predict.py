"""A ``/predict`` whose instances belong to two bundles: each scores its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import numpy as np

from app.errors import ServiceError
from app.features.graph_inputs import Scores
from app.scoring.decoding import decode, predict_decoder
from app.scoring.job import Ids, ListedItems, ScoringRequest
from app.scoring.scorer import Scorer
from app.scoring.steps import Steps
from app.scoring.trace import Trace

_encode = msgspec.json.Encoder().encode


class SplitRequest(ScoringRequest, Protocol):
    """A request whose answer says of each instance who scored it."""

    versions: Sequence[str] | None
    """The version that scored each instance, where they are not all the same."""

    def trace_of(self, body: bytes) -> Trace | None:
        """Return the trace of a part of the body, if it may have to be logged."""
        ...

    def log_half(
        self,
        scorer: Scorer,
        trace: Trace,
        scores: Scores,
        listed: ListedItems | None,
        places: Sequence[int],
    ) -> None:
        """Hand one bundle's instances, which were answered, over to the log."""
        ...


class Counting(Protocol):
    """The counts of one side's requests."""

    def scored(self, scores: Scores, begun: float) -> None:
        """Count a request with scores that began at a time of ``perf_counter``."""
        ...

    def failed(self) -> None:
        """Count a request that failed."""
        ...


class _Half:
    """One bundle's instances of a request, as a caller of its batcher."""

    listed: ListedItems | None = None
    ids: Ids | None = None
    top_k: int | None = None
    degraded = without_profiles = False
    encoded = begun = ended = 0.0
    rows = 0
    scores: Scores | None = None

    def __init__(
        self, split: _Split, places: Sequence[int], scorer: Scorer, counting: Counting
    ) -> None:
        """``places`` are those of the instances in the whole request."""
        self.trace: Trace | None = None
        self.scorer = scorer
        self._split = split
        self.places = places
        self._counting = counting
        self.deadline = split.request.deadline
        self.of_page = split.request.of_page

    def departed(self) -> bool:
        return self._split.over or self._split.request.departed()

    def scored(self, scores: Scores) -> None:
        self.scores = scores
        self._counting.scored(scores, self._split.began)
        self._split.half_scored()

    def scored_alone(self, logit: float, score: float) -> None:
        self.scored(Scores(np.array([logit], np.float32), np.array([score], np.float32)))

    def failed(self, error: Exception) -> None:
        if not self._split.over:
            self._split.over = True
            self._counting.failed()
            self._split.request.failed(error)

    def placed(self) -> list[tuple[int, int]]:
        """The place of each scored row in the whole request, and its row here."""
        listed = self.listed.places if self.listed is not None else None
        rows = range(len(self.places)) if listed is None else listed
        return [(self.places[place], row) for row, place in enumerate(rows)]


class _Split:
    """A request in two halves; it is answered when both have their scores."""

    over = False
    """It was answered otherwise: scores that still come are of no use."""

    def __init__(self, request: SplitRequest, began: float) -> None:
        self.request = request
        self.began = began
        self.halves: list[_Half] = []

    def half_scored(self) -> None:
        """Answer, if this was the last half."""
        if self.over or any(half.scores is None for half in self.halves):
            return
        request, halves = self.request, self.halves
        rows = sorted(
            (place, number, row)
            for number, half in enumerate(halves)
            for place, row in half.placed()
        )
        unknown = [
            (half.places[place], identity)
            for half in halves
            if half.listed is not None
            for place, identity in half.listed.unknown
        ]
        if unknown:
            last = any(half.listed is not None and half.listed.unknown_last for half in halves)
            request.listed = ListedItems([place for place, _, _ in rows], sorted(unknown), last)
        request.encoded = max(half.encoded for half in halves)
        request.begun = min(half.begun for half in halves)
        request.ended = max(half.ended for half in halves)
        request.degraded = any(half.degraded for half in halves)
        request.without_profiles = any(half.without_profiles for half in halves)
        found = [half.scores for half in halves if half.scores is not None]
        logit = np.array([found[number].logit[row] for _, number, row in rows], np.float32)
        score = np.array([found[number].score[row] for _, number, row in rows], np.float32)
        request.scored(Scores(logit, score))
        for half in halves:
            if half.trace is not None and half.scores is not None:
                request.log_half(half.scorer, half.trace, half.scores, half.listed, half.places)


def split_predict(
    body: bytes,
    request: SplitRequest,
    live: tuple[Scorer, Counting],
    canary: tuple[Scorer, Counting],
    is_canarys: Sequence[bool],
    began: float,
    whole: Callable[[], Steps[None]],
) -> Steps[None]:
    """Queue the instances of a ``/predict`` body, each with the bundle that it belongs to.

    ``whole`` queues the body as it is: it takes a body that is refused, and names its problems by
    their places in it.

    Raises:
        ServiceError: the request is refused.
    """
    decoded = decode(predict_decoder, body)
    split = _Split(request, began)
    sides = (live, canary)
    places = [
        [place for place, own in enumerate(is_canarys) if own is side] for side in (False, True)
    ]
    split.halves = [
        _Half(split, own, scorer, counting)
        for own, (scorer, counting) in zip(places, sides, strict=True)
    ]
    request.rows = len(is_canarys)
    request.versions = [(canary if own else live)[0].version for own in is_canarys]
    # Neither is closed before its half has come, though it has no other requests.
    for scorer, _ in sides:
        scorer.reading += 1
    refused = False
    try:
        for half, (scorer, counting) in zip(split.halves, sides, strict=True):
            own = _encode(
                {
                    "instances": [decoded.instances[place] for place in half.places],
                    "stored": decoded.stored,
                    "on_unknown": decoded.on_unknown,
                }
            )
            half.trace = request.trace_of(own)
            try:
                yield from scorer.predict(own, half)
            except ServiceError as error:
                if error.status >= 500 or error.status == 429:
                    counting.failed()
                    raise
                refused = split.over = True
                break
    finally:
        for scorer, _ in sides:
            scorer.reading -= 1
    if refused:
        request.versions = None
        yield from whole()
