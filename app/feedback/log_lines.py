"""Requests that were answered → lines of the request log, off the event loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import msgspec
import numpy as np

from app.errors import ValueProblem
from app.features.column_encoding import Misses
from app.features.encoder import Encoder
from app.features.graph_inputs import Scores
from app.feedback.log_format import LoggedCandidate, LoggedRequest, packed
from app.feedback.sample import Sample
from app.scoring.decoding import (
    column_decoder,
    instance_decoder,
    predict_decoder,
    rank_decoder,
)
from app.scoring.job import WORD_BYTES, Ids, ListedItems
from app.scoring.trace import Trace
from app.scoring.wire import CandidateColumns

Values = Mapping[str, Any] | msgspec.Raw
"""Values by field, or the JSON of them: the scorer has read it, so it is valid."""
StoredValues = Callable[[int | str], Mapping[str, Any] | None]
"""Gives the values that the store has of an item now; None if it has none."""


class Answered(NamedTuple):
    """A request with its answer, as it waits to become a line. Nothing of it changes any more."""

    time: float
    request_id: bytes
    version: str
    route: Literal["predict", "rank"]
    encoder: Encoder
    trace: Trace
    scores: Scores
    ids: Ids | None
    listed: ListedItems | None
    top_k: int | None
    degraded: list[str]
    places: Sequence[int] | None = None
    """The places of the instances in the request, where these are a part of it."""

    @property
    def size(self) -> int:
        """Bytes of memory that it holds, about."""
        trace = self.trace
        return len(trace.body) + len(trace.candidates) + 8 * len(self.scores.logit)


class _Candidate(msgspec.Struct, frozen=True):
    """A candidate of ``/rank`` in row form."""

    features: msgspec.Raw


_candidate_decoder = msgspec.json.Decoder(_Candidate)


class LineMaker:
    """Makes lines: takes the body apart again, and asks the store for what only its items have."""

    def __init__(
        self,
        sample: Sample,
        key: str | None,
        omit: Collection[str],
        item_key: str | None,
        stored: StoredValues,
        count_changed: Callable[[int], None],
    ) -> None:
        """``key`` is the field by which ``sample`` chooses instances, ``item_key`` the one of an
        instance with its item's id. ``count_changed`` counts items that are not as they were
        scored any more.
        """
        self._sample, self._key, self._omit = sample, key, frozenset(omit)
        self._item_key, self._stored, self._count_changed = item_key, stored, count_changed

    def line(self, answered: Answered) -> LoggedRequest | None:
        """Return a request's line; None if none of its rows belongs to the sample."""
        trace = answered.trace
        context: Mapping[str, Any] = {}
        if answered.route == "rank":
            context = trace.context or {}
            if trace.key is not None and trace.key not in context and trace.key_value is not None:
                context = {trace.key: trace.key_value, **context}
            rows = answered.scores.best(answered.top_k).tolist()
            features = self._listed_features(answered, rows, context)
        else:
            rows, features = self._instances(answered)
            if not rows:
                return None
        return LoggedRequest(
            round(answered.time, 6),
            answered.request_id.decode(),
            answered.version,
            answered.route,
            self._kept(context),
            [packed(each) for each in trace.contexts],
            [
                self._candidate(answered, row, place, each)
                for place, (row, each) in enumerate(zip(rows, features, strict=True), 1)
            ],
            answered.degraded,
        )

    def _kept(self, values: Values) -> dict[str, Any]:
        """Return values without those that are left out."""
        if isinstance(values, msgspec.Raw):
            text = bytes(values)
            # A line is one line.
            if not self._omit and b"\n" not in text and b"\r" not in text:
                # The encoder writes it where a dictionary would be.
                return cast("dict[str, Any]", values)
            values = instance_decoder.decode(text)
        if not self._omit:
            return dict(values)
        return {name: value for name, value in values.items() if name not in self._omit}

    def _candidate(
        self, answered: Answered, row: int, place: int, features: Values | None
    ) -> LoggedCandidate:
        scores, trace, listed = answered.scores, answered.trace, answered.listed
        index: int | None = row
        if listed is not None:
            index = None if listed.places is None else listed.places[row]
        if answered.places is not None and index is not None:
            index = answered.places[index]
        return LoggedCandidate(
            _shortest(scores.score[row]),
            _shortest(scores.logit[row]),
            packed(_row(answered, row)),
            index,
            None if answered.ids is None else answered.ids[row],
            place if answered.route == "rank" else None,
            None if features is None else self._kept(features),
            0 if trace.row_context is None else trace.row_context[row],
        )

    def _instances(self, answered: Answered) -> tuple[list[int], Sequence[Values | None]]:
        """Return the rows of ``/predict`` that belong to the sample, and their values."""
        trace = answered.trace
        instances = trace.instances
        if instances is None:
            parts = predict_decoder.decode(trace.body).instances
            if self._key is None and answered.listed is None:
                return list(range(len(parts))), parts
            instances = [instance_decoder.decode(part) for part in parts]
        rows = list(range(len(instances)))
        if self._key is not None:
            rows = [
                row
                for row in rows
                if self._sample.holds_key(instances[row].get(self._key), answered.request_id)
            ]
        if answered.listed is None or self._item_key is None:
            return rows, [instances[row] for row in rows]
        return rows, [
            self._filled(answered, row, instances[row].get(self._item_key), instances[row])
            for row in rows
        ]

    def _listed_features(
        self, answered: Answered, rows: Sequence[int], context: Mapping[str, Any]
    ) -> Sequence[Values | None]:
        """Return the values of candidates of ``/rank``."""
        candidates = rank_decoder.decode(answered.trace.body).candidates
        if not isinstance(candidates, CandidateColumns):
            return [_candidate_decoder.decode(candidates[row]).features for row in rows]
        columns = {}
        if candidates.features is not msgspec.UNSET:
            columns = {
                name: column_decoder.decode(part) for name, part in candidates.features.items()
            }
        if answered.listed is None:
            return [{name: values[row] for name, values in columns.items()} for row in rows]
        places, ids = answered.listed.places, answered.ids or []
        return [
            self._filled(
                answered,
                row,
                ids[row],
                {name: values[places[row]] for name, values in columns.items()} if places else {},
            )
            for row in rows
        ]

    def _filled(
        self, answered: Answered, row: int, identity: Any, own: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Return an item's values as they were scored: those of the store below the request's own.

        None where the store has others by now, which the encoded row tells.
        """
        stored = self._stored(identity) if isinstance(identity, int | str) else None
        if stored is None:
            self._count_changed(1)
            return None
        side = answered.encoder.candidate
        values = {**side.stored(stored), **own}
        misses: Misses = {}
        try:
            encoded = side.row(values, misses)
        except ValueProblem:
            encoded = b""
        if not misses and encoded != bytes(_row(answered, row)):
            self._count_changed(1)
            return None
        return values


def _row(answered: Answered, row: int) -> memoryview:
    width = answered.encoder.candidate.shape.width * WORD_BYTES
    return memoryview(answered.trace.candidates)[row * width : (row + 1) * width]


def _shortest(value: np.float32) -> float:
    """Return the shortest decimal number that is this one in float32."""
    return float(str(value))
