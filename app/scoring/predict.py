"""``/predict`` bodies → jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from app.errors import TooLarge, ValueProblem
from app.features.column_encoding import Misses
from app.features.encoder import Encoder
from app.features.row_batches import MOST_ROWS, RowBatches
from app.scoring.decoding import (
    UNREADABLE,
    check_size,
    decode,
    decode_part,
    instance_decoder,
    predict_decoder,
)
from app.scoring.job import Job, ScoringRequest
from app.scoring.limits import Limits
from app.scoring.problems import FieldNames, Problems
from app.scoring.profiles import ProfileFiller
from app.scoring.steps import Steps
from app.scoring.stored_instances import KnownItems, StoredInstances

STEP_ROWS = 8
"""Rows that one step decodes and encodes."""
SHORT_BODY = 4 * 1024
"""Bytes of a body up to which it is decoded and encoded in one step."""
WORTHWHILE_ROWS = 8
"""Rows from which on encoding them together costs less than one after the other."""


class PredictReader:
    """Decodes, checks and encodes the instances of ``/predict`` bodies."""

    def __init__(
        self,
        encoder: Encoder,
        limits: Limits,
        names: FieldNames,
        profiles: ProfileFiller | None = None,
        items: KnownItems | None = None,
    ) -> None:
        """``profiles`` and ``items`` fill the instances of requests that ask for that."""
        self._encoder = encoder
        self._stored = StoredInstances(encoder, names, limits.max_row_bytes, profiles, items)
        self._names = names
        self._max_instances = limits.max_instances
        self._max_row_bytes = limits.max_row_bytes
        self._short_bytes = min(SHORT_BODY, limits.max_row_bytes)
        self._rows = min(STEP_ROWS, limits.max_instances)
        self.together = encoder.instance is not None and encoder.texts is not None
        """True if the rows of several callers cost less together."""
        self._decode: Callable[[bytes], Any] | None = None
        if encoder.instance is not None:
            instances = list.__class_getitem__(encoder.instance)
            body = msgspec.defstruct("Body", [("instances", instances), ("stored", bool, False)])
            self._decode = msgspec.json.Decoder(body).decode
        self._batches = RowBatches(encoder, encoder.texts) if encoder.texts else None

    def decode_short(self, body: bytes) -> Sequence[Any] | None:
        """Return the instances of a short body, each as ``Encoder.instance``.

        None if it is anything else: :meth:`read` takes every body, and says what is wrong. Here
        nothing is told apart, so that a usual request is decoded in one pass.
        """
        if self._decode is None or len(body) > self._short_bytes:
            return None
        try:
            decoded = self._decode(body)
        except UNREADABLE:
            return None
        instances: list[Any] = decoded.instances
        return instances if len(instances) <= self._rows and not decoded.stored else None

    def job(self, instances: Sequence[Any], request: ScoringRequest) -> Job | None:
        """Return the job of decoded instances, and tell the request its rows.

        None if a value breaks a rule.
        """
        try:
            contexts = [*map(self._encoder.context_of, instances)]
            candidates = [*map(self._encoder.candidate_of, instances)]
        except ValueProblem:
            return None
        return _job(contexts, candidates, request)

    def jobs(self, waiting: Sequence[tuple[Sequence[Any], ScoringRequest]]) -> Sequence[Job | None]:
        """Return the job of each caller's instances, encoded together; None as :meth:`job`."""
        instances = [each for instances, _ in waiting for each in instances]
        if self._batches is None or len(instances) < WORTHWHILE_ROWS:
            return [self.job(instances, request) for instances, request in waiting]
        contexts: list[bytes] = []
        candidates: list[bytes] = []
        wrong: set[int] = set()
        for start in range(0, len(instances), MOST_ROWS):
            batch = self._batches.encode(instances[start : start + MOST_ROWS])
            contexts += batch.contexts
            candidates += batch.candidates
            wrong.update(start + place for place in batch.wrong)
        if len(instances) == len(waiting) and not wrong:
            return [
                _job([context], [candidate], request)
                for context, candidate, (_, request) in zip(
                    contexts, candidates, waiting, strict=True
                )
            ]
        jobs: list[Job | None] = []
        start = 0
        for own, request in waiting:
            end = start + len(own)
            faultless = wrong.isdisjoint(range(start, end))
            rows = contexts[start:end], candidates[start:end]
            jobs.append(_job(*rows, request) if faultless else None)
            start = end
        return jobs

    def read(self, body: bytes, request: ScoringRequest, misses: Misses | None) -> Steps[Job]:
        """Return a job with one row for each instance, and tell the request their number.

        Raises:
            ServiceError: the body is refused.
        """
        decoded = decode(predict_decoder, body)
        instances = decoded.instances
        if len(instances) > self._max_instances:
            raise TooLarge(f"more than {self._max_instances} instances")
        if decoded.stored:
            return (yield from self._stored.read(decoded, body, request, misses))
        request.rows = len(instances)
        encoder = self._encoder
        known = encoder.fields
        encode_context, encode_candidate = encoder.context.row, encoder.candidate.row
        # In a body that is no longer than a row may be, no row is longer.
        large = len(body) > self._max_row_bytes
        problems = Problems()
        candidates: list[bytes] = []
        places: dict[bytes, int] = {}
        row_context: list[int] = []
        for row, part in enumerate(instances):
            if row % STEP_ROWS == 0 and row:
                yield None
            if large:
                check_size(part, self._max_row_bytes, "instances", row)
            instance = decode_part(instance_decoder, body, part, "instances", row)
            if not known.issuperset(instance):
                self._names.check(instance, f"instances[{row}]", problems)
            try:
                candidates.append(encode_candidate(instance, misses))
                context = encode_context(instance, misses)
                row_context.append(places.setdefault(context, len(places)))
            except ValueProblem:
                for side in (encoder.context, encoder.candidate):
                    problems.add_row(side, instance, f"instances[{row}]")
        problems.raise_if_any()
        # Equal contexts have one row; the context of each row is told only where they differ.
        contexts = list(places)
        return Job(
            request,
            contexts,
            b"".join(candidates),
            len(instances),
            row_context if len(contexts) > 1 else None,
        )


def _job(contexts: list[bytes], candidates: list[bytes], request: ScoringRequest) -> Job:
    """Return the job of encoded rows, in which equal contexts are one, and tell their number."""
    request.rows = rows = len(contexts)
    if rows == 1:
        return Job(request, contexts, candidates[0], 1)
    different = [*dict.fromkeys(contexts)]
    places = [different.index(row) for row in contexts] if len(different) > 1 else None
    return Job(request, different, b"".join(candidates), rows, places)
