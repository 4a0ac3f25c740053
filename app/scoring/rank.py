"""``/rank`` bodies → a context row, and candidates that are encoded part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import numpy as np

from app.errors import TooLarge, ValueProblem
from app.features.arrays import Indices, Packed
from app.features.column_encoding import Misses
from app.features.encoder import Encoder, FieldProblems
from app.features.text_columns import TextColumns, text_columns
from app.scoring.candidate_rows import CandidateRows
from app.scoring.decoding import (
    candidate_decoder,
    check_size,
    column_decoder,
    context_decoder,
    decode_part,
    item_decoder,
    items_decoder,
)
from app.scoring.item_lists import ItemLists
from app.scoring.job import Ids, ScoringRequest, Slots
from app.scoring.limits import Limits
from app.scoring.predict import STEP_ROWS
from app.scoring.problems import NAME_LENGTH, FieldNames, Problems
from app.scoring.profiles import ProfileFiller
from app.scoring.rank_bodies import decode_rank
from app.scoring.steps import Steps
from app.scoring.wire import CandidateColumns, RankBody

LONG_COLUMN = 128 * 1024
"""Bytes from which on a column is decoded value by value. Decoding as many bytes of empty lists,
the slowest values, at once takes about 7 ms."""
STEP_VALUES = 256
"""Values of such a column that one step decodes."""
PART_ROWS = 128
"""Candidates that are encoded at once, and between which others have their turn."""
BULK_ROWS = 256
"""The same of columns whose texts are looked up together: those of 256 candidates cost less than
those of 128 cost one column after the other."""
_COLUMNS = "candidates.features"
NONE_READ: Mapping[str, int] = MappingProxyType({})
BLOCK_BYTES = 2 * LONG_COLUMN
"""Bytes of columns of texts that one step reads together, in some 0.2 ms."""
WORTHWHILE_BYTES = 16 * 1024
"""Bytes of columns of texts from which on it costs less to read them together than to decode them.
"""

SettleContext = Callable[[bytes, ScoringRequest, Misses], Steps[bytes]]
"""Fetches the rows of values that are not in memory, and gives the context with them."""
EncodePart = Callable[[int, int], Steps[Packed]]
"""Encodes the candidates from one place to another. Their problems are added to the request's; a
part with a problem is incomplete."""


class Ranking(NamedTuple):
    """A request whose candidates are still to be encoded."""

    context: bytes
    rows: int
    encode: EncodePart
    problems: Problems
    """The problems of the context, and of the candidates encoded so far."""
    slots: Slots | None = None
    """The places of the candidates' item parts, if all of their values are stored ones."""
    partial: bool = False
    """At the deadline the ranking of the first candidates is an answer."""
    at_once: bool = False
    """The candidates need no encoding: they are ready in one part."""
    part_rows: int = PART_ROWS
    """Candidates of a part. Of a longer list the first has half as many, so that the engine starts
    soon."""


class RankReader:
    """Decodes, checks and encodes the contexts and candidates of ``/rank`` bodies."""

    def __init__(
        self,
        encoder: Encoder,
        limits: Limits,
        names: FieldNames,
        item_lists: ItemLists,
        profiles: ProfileFiller | None = None,
    ) -> None:
        self._encoder = encoder
        self._names = names
        self._item_lists = item_lists
        self._profiles = profiles
        self._candidate_rows = CandidateRows(encoder, limits.max_row_bytes)
        self._max_candidates = limits.max_candidates
        self._max_row_bytes = limits.max_row_bytes

    def read(
        self,
        body: bytes,
        request: ScoringRequest,
        misses: Misses | None,
        settle: SettleContext,
        decoded: RankBody | None = None,
    ) -> Steps[Ranking]:
        """Encode the context; tell the request what its answer needs of the body.

        ``settle`` completes the context where it is needed before the candidates are known;
        ``decoded`` is the body, if it has been decoded before.

        Raises:
            ServiceError: the body is refused.
        """
        problems = Problems()
        if decoded is None:
            decoded = decode_rank(body, self._names, problems)
        check_size(decoded.context, self._max_row_bytes, "context")
        features = decode_part(context_decoder, body, decoded.context, "context")
        if request.trace is not None:
            request.trace.begin_list(features)
        if self._profiles is not None:
            yield from self._profiles.fill([features], request)
        context = self._encode_context(features, problems, misses)
        request.top_k = decoded.top_k
        yield None
        candidates = decoded.candidates
        encode: EncodePart
        slots: Slots | None = None
        at_once = False
        part_rows = PART_ROWS
        if isinstance(candidates, CandidateColumns):
            if candidates.ids is not None or candidates.all:
                found = yield from self._item_lists.rows(
                    candidates,
                    body,
                    decoded.on_unknown,
                    request,
                    partial(self._settled_context, context, request, problems, misses, settle),
                )
                rows = len(found.rows)
                own = yield from self._own_values(candidates, body, problems)
                at_once = not own
                # What is computed of an item before does not depend on its dynamic fields.
                stored = self._encoder.candidate.dynamic.issuperset(own)
                slots = found.slots if stored else None
                encode = partial(self._item_lists.encode, found, own, problems, misses)
            else:
                # Without ids there are features: the type of the body says so.
                assert candidates.features is not msgspec.UNSET
                request.ids = candidates.id
                texts: Sequence[TextColumns] = ()
                if misses is None:
                    texts = yield from self._read_texts(candidates.features)
                lengths = {name: each.starts.shape[1] for each in texts for name in each.names}
                columns, rows = yield from self._decode_columns(
                    candidates.features, candidates.id, "candidates.id", body, problems, lengths
                )
                encode = partial(self._encode_columns, columns, texts, problems, misses)
                if self._encoder.texts is not None:
                    part_rows = BULK_ROWS
        else:
            self._check_count(len(candidates))
            request.ids = []
            rows = len(candidates)
            encode = partial(self._encode_rows, candidates, body, request.ids, problems, misses)
        request.rows = rows
        return Ranking(context, rows, encode, problems, slots, decoded.partial, at_once, part_rows)

    def _settled_context(
        self,
        context: bytes,
        request: ScoringRequest,
        problems: Problems,
        misses: Misses | None,
        settle: SettleContext,
    ) -> Steps[Indices]:
        """Return the encoded context [1, width] with the rows of all its values.

        Raises:
            Invalid: it has a problem.
            VocabularyUnavailable: Redis does not answer.
        """
        problems.raise_if_any()
        if misses:
            context = yield from settle(context, request, misses)
        return np.frombuffer(context, np.int32).reshape(1, -1)

    def _own_values(
        self, candidates: CandidateColumns, body: bytes, problems: Problems
    ) -> Steps[Mapping[str, list[Any]]]:
        """Return the columns that take precedence over stored values: those that the spec knows."""
        if candidates.features is msgspec.UNSET or candidates.ids is None:
            return {}
        columns, _ = yield from self._decode_columns(
            candidates.features, candidates.ids, "candidates.ids", body, problems
        )
        known = self._encoder.candidate.fields
        return {name: column for name, column in columns.items() if name in known}

    def _encode_context(
        self, context: Mapping[str, Any], problems: Problems, misses: Misses | None
    ) -> bytes:
        side = self._encoder.context
        if not side.fields.issuperset(context):
            self._names.check_side("context", context, "context", problems)
        try:
            return side.row(context, misses)
        except ValueProblem:
            problems.add_row(side, context, "context")
            return b""

    def _encode_rows(
        self,
        candidates: list[msgspec.Raw],
        body: bytes,
        ids: Ids,
        problems: Problems,
        misses: Misses | None,
        start: int,
        stop: int,
    ) -> Steps[Packed]:
        """Decode and encode the candidates from ``start`` to ``stop``; append their ids."""
        most = self._candidate_rows.most_rows
        packed: list[Packed] = []
        for at in range(start, stop, most):
            if at:
                yield None
            block = candidates[at : min(at + most, stop)]
            read = self._candidate_rows.read(block, misses)
            if read is None:
                packed.append(
                    (yield from self._encode_one_by_one(at, block, body, ids, problems, misses))
                )
            else:
                packed.append(read.packed)
                ids += read.ids
        return packed[0] if len(packed) == 1 else b"".join(packed)

    def _encode_one_by_one(
        self,
        first: int,
        candidates: list[msgspec.Raw],
        body: bytes,
        ids: Ids,
        problems: Problems,
        misses: Misses | None,
    ) -> Steps[Packed]:
        """Decode and encode candidates, of which the list has the ``first`` at that place."""
        side = self._encoder.candidate
        encode, known = side.row, side.fields
        packed: list[bytes] = []
        # In a body that is no longer than a row may be, no row is longer.
        large = len(body) > self._max_row_bytes
        for row, part in enumerate(candidates, first):
            if row % STEP_ROWS == 0 and row > first:
                yield None
            if large:
                check_size(part, self._max_row_bytes, "candidates", row)
            candidate = decode_part(candidate_decoder, body, part, "candidates", row)
            ids.append(candidate.id)
            features = candidate.features
            if not known.issuperset(features):
                path = f"candidates[{row}].features"
                self._names.check_side("candidate", features, path, problems)
            try:
                packed.append(encode(features, misses))
            except ValueProblem:
                problems.add_row(side, features, f"candidates[{row}].features")
        return b"".join(packed)

    def _decode_columns(
        self,
        features: Mapping[str, msgspec.Raw],
        ids: Sequence[int | str | None] | None,
        ids_path: str,
        body: bytes,
        problems: Problems,
        read: Mapping[str, int] = NONE_READ,
    ) -> Steps[tuple[Mapping[str, list[Any]], int]]:
        """Decode columns; check their names and lengths. Return them and their length.

        ``read`` has the lengths of those that need no decoding.
        """
        side = self._encoder.candidate
        columns: dict[str, list[Any]] = {}
        for name, part in features.items():
            if name in read:
                continue
            if memoryview(part).nbytes < LONG_COLUMN:
                columns[name] = decode_part(column_decoder, body, part, _COLUMNS, name)
            else:
                columns[name] = yield from self._decode_long_column(name, part, body)
            yield None
        lengths = {
            f"{_COLUMNS}.{name}": read[name] if name in read else len(columns[name])
            for name in features
        }
        if ids is not None:
            lengths[ids_path] = len(ids)
        rows = next(iter(lengths.values()), 0)
        for path, length in lengths.items():
            if length != rows:
                problems.add(
                    path, ValueProblem(f"length {length}, expected {rows} as in the first list")
                )
        self._check_count(max(lengths.values(), default=0))
        if not side.fields.issuperset(columns):
            self._names.check_side("candidate", features, _COLUMNS, problems)
        problems.raise_if_any()
        return columns, rows

    def _read_texts(self, features: Mapping[str, msgspec.Raw]) -> Steps[Sequence[TextColumns]]:
        """Return those columns of texts that need no decoding."""
        found: list[TextColumns] = []
        parts: dict[str, bytes] = {}
        size = 0
        for name in self._encoder.candidate.text_fields:
            part = features.get(name, b"")
            own = memoryview(part).nbytes
            if not 0 < own < LONG_COLUMN:
                continue
            if size + own > BLOCK_BYTES:
                found += _texts_of(parts)
                yield None
                parts, size = {}, 0
            parts[name] = part
            size += own
        if size >= WORTHWHILE_BYTES:
            found += _texts_of(parts)
            yield None
        return found

    def _decode_long_column(self, name: str, part: msgspec.Raw, body: bytes) -> Steps[list[Any]]:
        """Decode a column in steps; each of its values is limited like a row."""
        items = decode_part(items_decoder, body, part, _COLUMNS, name)
        self._check_count(len(items))
        where = f"{_COLUMNS}.{name[:NAME_LENGTH]}"
        values: list[Any] = []
        for place, item in enumerate(items):
            if place % STEP_VALUES == 0:
                yield None
            check_size(item, self._max_row_bytes, where, place)
            values.append(decode_part(item_decoder, body, item, where, place))
        return values

    def _encode_columns(
        self,
        columns: Mapping[str, list[Any]],
        texts: Sequence[TextColumns],
        problems: Problems,
        misses: Misses | None,
        start: int,
        stop: int,
    ) -> Steps[Packed]:
        """Encode the candidates from ``start`` to ``stop``, a column at a time."""
        part = {name: values[start:stop] for name, values in columns.items()}
        part_texts = [each.rows(start, stop) for each in texts]
        try:
            encoded = yield from self._encoder.candidate.column_steps(
                part, stop - start, misses, part_texts
            )
        except FieldProblems as wrong:
            for name, column in wrong.fields.items():
                for row, problem in column.problems:
                    problems.add(f"{_COLUMNS}.{name}[{start + row}]", problem)
            return b""
        return encoded.data.cast("B")

    def _check_count(self, candidates: int) -> None:
        if candidates > self._max_candidates:
            raise TooLarge(f"more than {self._max_candidates} candidates")


def _texts_of(parts: Mapping[str, bytes]) -> Sequence[TextColumns]:
    """Return those columns that are texts and need no decoding: all together, or some apart."""
    together = text_columns(parts)
    if together is not None:
        return [together]
    alone = [
        text_columns({name: part})
        for name, part in parts.items()
        if memoryview(part).nbytes >= WORTHWHILE_BYTES // 4
    ]
    return [each for each in alone if each is not None]
