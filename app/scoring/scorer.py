"""The use case: a request's raw features → indices → a shared batch → scores.

A list is encoded in parts, and the engine begins with the first ones while the event loop
encodes the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec

from app.bundle.bundle import Bundle
from app.errors import Detail, Invalid, TooLarge, ValueProblem
from app.features.arrays import Packed
from app.features.encoder import Encoder, Fetched, FieldProblems, SideEncoder, settle
from app.features.field_encoders import Misses
from app.scoring.decoding import (
    MAX_DETAILS,
    candidate_decoder,
    check_size,
    column_decoder,
    context_decoder,
    decode,
    decode_part,
    instance_decoder,
    item_decoder,
    items_decoder,
    predict_decoder,
    rank_decoder,
)
from app.scoring.job import Caller, Job
from app.scoring.limits import Limits
from app.scoring.wire import CandidateColumns

log = logging.getLogger(__name__)
_NAMED_LIMIT = 1_000
NAME_LENGTH = 64
STEP_ROWS = 8
"""Rows that one step encodes."""
LONG_COLUMN = 128 * 1024
"""Bytes of a column from which on it is decoded value by value. At once, as many bytes of empty
lists, the slowest there are, take some 7 ms."""
STEP_VALUES = 256
"""Values of such a column that one step decodes."""
PART_ROWS = 128
"""Candidates that the engine is given at a time while the rest of their list is encoded."""
_INT = 4
_COLUMNS = "candidates.features"
T = TypeVar("T")
Ids = list[int | str | None]


Wait = Awaitable[object] | None
Steps = Generator[Wait, None, T]
"""A calculation in steps, each of which may hold the event loop. Between two of them others may
have their turn; what a step yields is to be awaited before the next one."""


EncodePart = Callable[[int, int], Steps[Packed]]
"""Encodes the candidates from one place to another into packed rows; empty, if one is wrong."""


class Asker(Caller, Protocol):
    """A caller, and what its answer holds besides the scores; set before any row is scored."""

    degraded: bool
    """Values may count as OOV because the vocabulary could not be asked."""
    ids: Ids | None
    rows: int
    top_k: int | None


class Batching(Protocol):
    """What the scorer needs of a batcher."""

    def submit(self, job: Job) -> None:
        """Score a job's rows as far as they are ready; again when more are, or none will be."""
        ...

    def admit(self, rows: int, deadline: float) -> None:
        """Refuse rows that could not be scored in time."""
        ...


class Fetches(Protocol):
    """What the scorer needs of a vocabulary of which the encoder's tables hold only a part."""

    async def fetch(self, misses: Misses, deadline: float) -> Fetched:
        """Return the rows of what the tables lack.

        Raises:
            VocabularyUnavailable: they cannot be had.
        """
        ...


class Problems:
    """What is wrong with a request: all of it counted, the first few kept."""

    def __init__(self) -> None:
        self.details: list[Detail] = []
        self.total = 0

    def add(self, path: str, problem: ValueProblem) -> None:
        """Note a problem of the value at ``path``."""
        place = "" if problem.position is None else f"[{problem.position}]"
        self.note(lambda: Detail(path + place, problem.problem))

    def note(self, detail: Callable[[], Detail]) -> None:
        """Count a problem; only the first few are worth the telling."""
        self.total += 1
        if len(self.details) < MAX_DETAILS:
            self.details.append(detail())

    def check(self) -> None:
        """Go on if nothing is wrong.

        Raises:
            Invalid: something is.
        """
        if self.total:
            raise Invalid("the request has invalid values", self.details, self.total)


class Scorer:
    """Scores requests by one bundle.

    Encoding and validation happen here, in the caller's own request: only valid rows reach a
    batch that others share.
    """

    def __init__(
        self,
        bundle: Bundle,
        encoder: Encoder,
        batcher: Batching,
        limits: Limits,
        count_unknown: Callable[[int], None] = lambda count: None,
        vocabulary: Fetches | None = None,
    ) -> None:
        self.version = bundle.version
        self.admit = batcher.admit
        self._batcher = batcher
        self._encoder = encoder
        self._limits = limits
        self._max_row_bytes = limits.max_row_bytes
        self._count_unknown = count_unknown
        self._vocabulary = vocabulary
        self._named: set[str] = set()

    def predict(self, body: bytes, caller: Asker) -> Steps[None]:
        """Score the instances of a ``/predict`` body, one row each.

        Raises:
            ServiceError: the request is refused.
        """
        instances = decode(predict_decoder, body).instances
        if len(instances) > self._limits.max_instances:
            raise TooLarge(f"more than {self._limits.max_instances} instances")
        caller.rows = len(instances)
        known = self._encoder.fields
        encode_context, encode_candidate = self._encoder.context.row, self._encoder.candidate.row
        problems = Problems()
        candidates: list[bytes] = []
        places: dict[bytes, int] = {}
        row_context: list[int] = []
        misses = self._misses()
        large = len(body) > self._max_row_bytes
        for row, raw in enumerate(instances):
            if row % STEP_ROWS == 0 and row:
                yield None
            if large:
                check_size(raw, self._max_row_bytes, "instances", row)
            instance = decode_part(instance_decoder, body, raw, "instances", row)
            if not known.issuperset(instance):
                self._unknown(instance, known, f"instances[{row}]", problems)
            try:
                candidates.append(encode_candidate(instance, misses))
                context = encode_context(instance, misses)
                row_context.append(places.setdefault(context, len(places)))
            except ValueProblem:
                for side in (self._encoder.context, self._encoder.candidate):
                    self._add(side, instance, f"instances[{row}]", problems)
        problems.check()
        job = Job(
            caller, list(places), b"".join(candidates), len(instances),
            row_context if len(places) > 1 else None,
        )  # fmt: skip
        if misses:
            yield from self._complete(job, caller, misses)
        self._batcher.submit(job)

    def rank(self, body: bytes, caller: Asker) -> Steps[None]:
        """Score the candidates of a ``/rank`` body.

        Raises:
            ServiceError: the request is refused; what was scored of it until then is dropped.
        """
        request = decode(rank_decoder, body)
        problems = Problems()
        misses = self._misses()
        check_size(request.context, self._max_row_bytes, "context")
        features = decode_part(context_decoder, body, request.context, "context")
        context = self._encode_context(features, problems, misses)
        caller.top_k = request.top_k
        yield None
        candidates = request.candidates
        encode: EncodePart
        if isinstance(candidates, CandidateColumns):
            caller.ids = candidates.id
            columns, rows = yield from self._decode_columns(candidates, body, problems)
            encode = partial(self._encode_columns, columns, problems, misses)
        else:
            self._check_count(len(candidates))
            caller.ids = []
            rows = len(candidates)
            encode = partial(self._encode_rows, candidates, body, caller.ids, problems, misses)
        caller.rows = rows
        width = self._encoder.candidate.shape.width * _INT
        job = Job(caller, [context], bytearray(rows * width), rows, ready=0)
        yield from self._score_parts(job, encode, caller, problems, misses)

    def _score_parts(
        self,
        job: Job,
        encode: EncodePart,
        caller: Asker,
        problems: Problems,
        misses: Misses | None,
    ) -> Steps[None]:
        """Encode a list part by part, each of which may be scored as soon as it is there.

        That ends where something is wrong or a row still lacks a value: the whole list is then
        looked at first.
        """
        width = self._encoder.candidate.shape.width * _INT
        assert isinstance(job.candidates, bytearray)
        try:
            for start, stop in _parts(job.rows):
                part = yield from encode(start, stop)
                if job.answered:
                    return
                if not problems.total:
                    job.candidates[start * width : stop * width] = part
                    if not misses:
                        job.ready = stop
                        self._batcher.submit(job)
            problems.check()
            if misses:
                yield from self._complete(job, caller, misses)
            if misses or not job.rows:
                job.ready = job.rows
                self._batcher.submit(job)
        finally:
            if job.ready < job.rows:
                job.answered = True
                if job.admitted:
                    self._batcher.submit(job)

    def _misses(self) -> Misses | None:
        """Where to note what the tables lack; None if they hold the whole vocabulary."""
        return None if self._vocabulary is None else {}

    def _complete(self, job: Job, caller: Asker, misses: Misses) -> Steps[None]:
        """Put the rows that the tables lacked into their places, once they are there."""
        assert self._vocabulary is not None
        fetching = asyncio.create_task(self._vocabulary.fetch(misses, caller.deadline))
        yield fetching
        rows, caller.degraded = fetching.result()
        context, candidate = self._encoder.shapes
        job.contexts = [settle(each, rows, context) for each in job.contexts]
        job.candidates = settle(job.candidates, rows, candidate)

    def _encode_context(
        self, context: Mapping[str, Any], problems: Problems, misses: Misses | None
    ) -> bytes:
        side = self._encoder.context
        if not side.fields.issuperset(context):
            self._misplaced(context, self._encoder.candidate.fields, "context", problems)
            self._unknown(context, self._encoder.fields, "context", problems)
        try:
            return side.row(context, misses)
        except ValueProblem:
            self._add(side, context, "context", problems)
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
        """Encode the candidates from ``start`` to ``stop``, noting their ids."""
        side = self._encoder.candidate
        encode, known = side.row, side.fields
        packed: list[bytes] = []
        large = len(body) > self._max_row_bytes
        for row in range(start, stop):
            if row % STEP_ROWS == 0 and row:
                yield None
            if large:
                check_size(candidates[row], self._max_row_bytes, "candidates", row)
            candidate = decode_part(candidate_decoder, body, candidates[row], "candidates", row)
            ids.append(candidate.id)
            features = candidate.features
            if not known.issuperset(features):
                path = f"candidates[{row}].features"
                self._misplaced(features, self._encoder.context.fields, path, problems)
                self._unknown(features, self._encoder.fields, path, problems)
            try:
                packed.append(encode(features, misses))
            except ValueProblem:
                self._add(side, features, f"candidates[{row}].features", problems)
        return b"".join(packed)

    def _decode_columns(
        self, raw: CandidateColumns, body: bytes, problems: Problems
    ) -> Steps[tuple[Mapping[str, list[Any]], int]]:
        """Decode columns and check their names and lengths; return them and their length."""
        side = self._encoder.candidate
        columns: dict[str, list[Any]] = {}
        for name, part in raw.features.items():
            if memoryview(part).nbytes < LONG_COLUMN:
                columns[name] = decode_part(column_decoder, body, part, _COLUMNS, name)
            else:
                columns[name] = yield from self._decode_long_column(name, part, body)
            yield None
        lengths = {f"{_COLUMNS}.{name}": len(values) for name, values in columns.items()}
        if raw.id is not None:
            lengths["candidates.id"] = len(raw.id)
        rows = next(iter(lengths.values()), 0)
        for path, length in lengths.items():
            if length != rows:
                problems.add(path, ValueProblem(f"{length} values where others have {rows}"))
        self._check_count(max(lengths.values(), default=0))
        if not side.fields.issuperset(columns):
            self._misplaced(columns, self._encoder.context.fields, _COLUMNS, problems)
            self._unknown(columns, self._encoder.fields, _COLUMNS, problems)
        problems.check()
        return columns, rows

    def _decode_long_column(self, name: str, part: msgspec.Raw, body: bytes) -> Steps[list[Any]]:
        """Decode a column in steps, each of its values being as small as a row must be."""
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
        problems: Problems,
        misses: Misses | None,
        start: int,
        stop: int,
    ) -> Steps[Packed]:
        """Encode the rows of columns from ``start`` to ``stop``."""
        part = {name: values[start:stop] for name, values in columns.items()}
        try:
            encoded = yield from self._encoder.candidate.column_steps(part, stop - start, misses)
        except FieldProblems as wrong:
            for name, column in wrong.fields.items():
                for row, problem in column.problems:
                    problems.add(f"{_COLUMNS}.{name}[{start + row}]", problem)
            return b""
        return encoded.data.cast("B")

    @staticmethod
    def _add(side: SideEncoder, row: Mapping[str, Any], path: str, problems: Problems) -> None:
        """Note everything that is wrong with the values of a row."""
        for name, problem in side.problems(row):
            problems.add(f"{path}.{name}", problem)

    def _check_count(self, candidates: int) -> None:
        if candidates > self._limits.max_candidates:
            raise TooLarge(f"more than {self._limits.max_candidates} candidates")

    @staticmethod
    def _misplaced(
        names: Iterable[str], other_side: frozenset[str], path: str, problems: Problems
    ) -> None:
        """Note fields of the other side: they would be ignored, and the score wrong."""
        for name in names:
            if name in other_side:
                here = "candidate" if path == "context" else "context"
                problems.add(f"{path}.{name}", ValueProblem(f"this is a {here} field"))

    def _unknown(
        self, names: Iterable[str], known: frozenset[str], path: str, problems: Problems
    ) -> None:
        """Refuse, or count and once name, fields that the spec does not know."""
        # A name may be as long as the body; its start is enough to tell it by.
        found = [name[:NAME_LENGTH] for name in names if name not in known]
        if self._limits.known_fields_only:
            for name in found:
                problems.note(partial(_unknown_field, path, name, known))
            return
        self._count_unknown(len(found))
        if len(self._named) < _NAMED_LIMIT:
            for name in found[:_NAMED_LIMIT]:
                if name not in self._named:
                    self._named.add(name)
                    log.warning("field %r is not in the spec and is ignored", name)


def _parts(rows: int) -> Iterator[tuple[int, int]]:
    """Cut a list: a short part comes first, so that the engine can soon begin."""
    start, stop = 0, PART_ROWS // 2
    while start < rows:
        yield start, min(stop, rows)
        start, stop = stop, stop + PART_ROWS


def _unknown_field(path: str, name: str, known: frozenset[str]) -> Detail:
    near = get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return Detail(f"{path}.{name}", f"unknown field{hint}")
