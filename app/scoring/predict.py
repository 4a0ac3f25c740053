"""``/predict`` bodies → jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from app.errors import TooLarge, ValueProblem
from app.features.column_encoding import Misses
from app.features.encoder import Encoder
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
from app.scoring.steps import Steps

STEP_ROWS = 8
"""Rows that one step decodes and encodes."""
SHORT_BODY = 4 * 1024
"""Bytes of a body up to which it is decoded and encoded in one step."""


class PredictReader:
    """Decodes, checks and encodes the instances of ``/predict`` bodies."""

    def __init__(self, encoder: Encoder, limits: Limits, names: FieldNames) -> None:
        self._encoder = encoder
        self._names = names
        self._max_instances = limits.max_instances
        self._max_row_bytes = limits.max_row_bytes
        self._short_bytes = min(SHORT_BODY, limits.max_row_bytes)
        self._rows = min(STEP_ROWS, limits.max_instances)
        self._decode: Callable[[bytes], list[Any]] | None = None
        if encoder.instance is not None:
            instances = list.__class_getitem__(encoder.instance)
            body = msgspec.defstruct("Body", [("instances", instances)])
            decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(body)
            self._decode = lambda text: decoder.decode(text).instances

    def read_short(self, body: bytes, request: ScoringRequest) -> Job | None:
        """Return the job of a short and faultless body, and tell the request its rows.

        None if it is anything else: :meth:`read` takes every body, and says what is wrong. Here
        nothing is told apart, so that a usual request is decoded and encoded in one pass.
        """
        if self._decode is None or len(body) > self._short_bytes:
            return None
        try:
            instances = self._decode(body)
            if len(instances) > self._rows:
                return None
            rows = [*map(self._encoder.context_of, instances)]
            candidates = [*map(self._encoder.candidate_of, instances)]
        except (*UNREADABLE, ValueProblem):
            return None
        request.rows = len(rows)
        if len(rows) == 1:
            return Job(request, rows, candidates[0], 1)
        contexts = [*dict.fromkeys(rows)]
        places = [contexts.index(row) for row in rows] if len(contexts) > 1 else None
        return Job(request, contexts, b"".join(candidates), len(rows), places)

    def read(self, body: bytes, request: ScoringRequest, misses: Misses | None) -> Steps[Job]:
        """Return a job with one row for each instance, and tell the request their number.

        Raises:
            ServiceError: the body is refused.
        """
        instances = decode(predict_decoder, body).instances
        if len(instances) > self._max_instances:
            raise TooLarge(f"more than {self._max_instances} instances")
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
