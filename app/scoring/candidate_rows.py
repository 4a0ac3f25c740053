"""Candidates in row form as structs: many are decoded in one pass and encoded together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from app.errors import ValueProblem
from app.features.arrays import Packed
from app.features.column_encoding import Misses
from app.features.encoder import Encoder
from app.features.instances import instance_type, member_names
from app.features.row_batches import MOST_ROWS, RowBatches
from app.features.row_compiler import compile_row
from app.scoring.decoding import UNREADABLE
from app.scoring.job import Ids
from app.scoring.predict import STEP_ROWS, WORTHWHILE_ROWS

MOST_BYTES = 128 * 1024
"""Bytes of candidates that are decoded in one go."""


class ReadRows(NamedTuple):
    """Encoded candidates, and their ids."""

    packed: Packed
    ids: Ids


class CandidateRows:
    """Reads candidates without a mapping for each; whatever is unusual is left to the caller."""

    def __init__(self, encoder: Encoder, max_row_bytes: int) -> None:
        side = encoder.candidate
        self._max_row_bytes = max_row_bytes
        self._decode: Callable[[bytes], Sequence[Any]] | None = None
        features = instance_type(side.encoders)
        if features is not None:
            candidate = msgspec.defstruct(
                "Candidate",
                [("features", features), ("id", int | str | None, None)],
                gc=False,
            )
            self._decode = msgspec.json.Decoder(list.__class_getitem__(candidate)).decode
        self._row = compile_row(side.encoders, side.shape, member_names(side.encoders))
        self._batches: RowBatches | None = None
        if encoder.texts is not None and side.text_fields:
            self._batches = RowBatches(encoder, encoder.texts, candidates=True)
        self.most_rows = STEP_ROWS if self._batches is None else MOST_ROWS
        """Candidates that :meth:`read` takes in a short time."""

    def read(self, candidates: Sequence[msgspec.Raw], misses: Misses | None) -> ReadRows | None:
        """Encode at most ``most_rows`` candidates.

        None if they are long, one of them has a field that the side has not, or a value that
        breaks a rule: they have to be read one by one, which says what is wrong.
        """
        body = b"[%b]" % b",".join(candidates)
        if self._decode is None or len(body) > MOST_BYTES:
            return None
        if len(body) > self._max_row_bytes and any(
            memoryview(each).nbytes > self._max_row_bytes for each in candidates
        ):
            return None
        try:
            decoded = self._decode(body)
        except UNREADABLE:
            return None
        features = [each.features for each in decoded]
        ids = [each.id for each in decoded]
        if self._batches is not None and misses is None and len(features) >= WORTHWHILE_ROWS:
            words, wrong = self._batches.words(features)
            return None if wrong else ReadRows(words.data.cast("B"), ids)
        try:
            return ReadRows(b"".join([self._row(each, misses) for each in features]), ids)
        except ValueProblem:
            return None
