"""The use case: a request's raw features → indices → a shared batch → scores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np

from app.batch import Batch, Caller, Job, Scoring
from app.bundle import Bundle, Precision
from app.decoding import (
    MAX_DETAILS,
    candidate_decoder,
    column_decoder,
    decode,
    decode_part,
    instance_decoder,
    predict_decoder,
    rank_decoder,
)
from app.encoder import Encoder, Fetched, FieldProblems, Misses, SideEncoder, settle
from app.errors import BundleError, Detail, Invalid, TooLarge, ValueProblem
from app.schemas import Columns

log = logging.getLogger(__name__)
_NAMED_LIMIT = 1_000
NAME_LENGTH = 64
STEP_ROWS = 8
"""Rows that one step encodes."""
T = TypeVar("T")
Ids = list[int | str | None]


Wait = Awaitable[object] | None
Steps = Generator[Wait, None, T]
"""A calculation in steps, each of which may hold the event loop. Between two of them others may
have their turn; what a step yields is to be awaited before the next one."""


class Batching(Protocol):
    """What the scorer needs of a batcher."""

    def submit(self, job: Job) -> None:
        """Score a job's rows."""
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
        max_instances: int,
        max_candidates: int,
        refuse_unknown: bool = False,
        count_unknown: Callable[[int], None] = lambda count: None,
        vocabulary: Fetches | None = None,
    ) -> None:
        self.version = bundle.version
        self.admit = batcher.admit
        self.submit = batcher.submit
        self._encoder = encoder
        self._max_instances = max_instances
        self._max_candidates = max_candidates
        self._refuse_unknown = refuse_unknown
        self._count_unknown = count_unknown
        self._vocabulary = vocabulary
        self._named: set[str] = set()

    def predict(self, body: bytes, caller: Caller) -> Steps[Job]:
        """Encode the instances of a ``/predict`` body, one row each.

        Raises:
            ServiceError: the request is refused.
        """
        instances = decode(predict_decoder, body).instances
        if len(instances) > self._max_instances:
            raise TooLarge(f"more than {self._max_instances} instances")
        known = self._encoder.fields
        encode_context, encode_candidate = self._encoder.context.row, self._encoder.candidate.row
        problems = Problems()
        candidates: list[bytes] = []
        places: dict[bytes, int] = {}
        row_context: list[int] = []
        misses = self._misses()
        for row, raw in enumerate(instances):
            if row % STEP_ROWS == 0 and row:
                yield None
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
            yield from self._complete(job, misses)
        return job

    def rank(self, body: bytes, caller: Caller) -> Steps[tuple[Job, int | None, Ids | None]]:
        """Encode the candidates of a ``/rank`` body; return the job, ``top_k`` and the ids.

        Raises:
            ServiceError: the request is refused.
        """
        request = decode(rank_decoder, body)
        problems = Problems()
        misses = self._misses()
        context = self._encode_context(request.context, problems, misses)
        yield None
        ids: Ids | None
        if isinstance(request.candidates, Columns):
            ids = request.candidates.id
            encoded = yield from self._encode_columns(request.candidates, body, problems, misses)
        else:
            ids = []
            encoded = yield from self._encode_rows(request.candidates, body, ids, problems, misses)
        problems.check()
        candidates, rows = encoded
        job = Job(caller, [context], candidates, rows)
        if misses:
            yield from self._complete(job, misses)
        return job, request.top_k, ids

    def _misses(self) -> Misses | None:
        """Where to note what the tables lack; None if they hold the whole vocabulary."""
        return None if self._vocabulary is None else {}

    def _complete(self, job: Job, misses: Misses) -> Steps[None]:
        """Put the rows that the tables lacked into their places, once they are there."""
        assert self._vocabulary is not None
        fetching = asyncio.create_task(self._vocabulary.fetch(misses, job.caller.deadline))
        yield fetching
        rows, job.degraded = fetching.result()
        job.contexts = [
            settle(context, rows, self._encoder.context.shape) for context in job.contexts
        ]
        job.candidates = settle(job.candidates, rows, self._encoder.candidate.shape)

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
    ) -> Steps[tuple[bytes | memoryview, int]]:
        self._check_count(len(candidates))
        side = self._encoder.candidate
        encode, known = side.row, side.fields
        packed: list[bytes] = []
        for row, raw in enumerate(candidates):
            if row % STEP_ROWS == 0 and row:
                yield None
            candidate = decode_part(candidate_decoder, body, raw, "candidates", row)
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
        return b"".join(packed), len(packed)

    def _encode_columns(
        self, raw: Columns, body: bytes, problems: Problems, misses: Misses | None
    ) -> Steps[tuple[bytes | memoryview, int]]:
        side = self._encoder.candidate
        where = "candidates.features"
        columns: dict[str, list[Any]] = {}
        for name, part in raw.features.items():
            columns[name] = decode_part(column_decoder, body, part, where, name)
            yield None
        lengths = {f"{where}.{name}": len(values) for name, values in columns.items()}
        if raw.id is not None:
            lengths["candidates.id"] = len(raw.id)
        rows = next(iter(lengths.values()), 0)
        for path, length in lengths.items():
            if length != rows:
                problems.add(path, ValueProblem(f"{length} values where others have {rows}"))
        self._check_count(max(lengths.values(), default=0))
        if not side.fields.issuperset(columns):
            self._misplaced(columns, self._encoder.context.fields, where, problems)
            self._unknown(columns, self._encoder.fields, where, problems)
        if problems.total or rows == 0:
            return b"", 0
        try:
            encoded = yield from side.column_steps(columns, rows, misses)
        except FieldProblems as wrong:
            for name, column in wrong.fields.items():
                for row, problem in column.problems:
                    problems.add(f"{where}.{name}[{row}]", problem)
            return b"", 0
        return encoded.data.cast("B"), rows

    @staticmethod
    def _add(side: SideEncoder, row: Mapping[str, Any], path: str, problems: Problems) -> None:
        """Note everything that is wrong with the values of a row."""
        for name, problem in side.problems(row):
            problems.add(f"{path}.{name}", problem)

    def _check_count(self, candidates: int) -> None:
        if candidates > self._max_candidates:
            raise TooLarge(f"more than {self._max_candidates} candidates")

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
        if self._refuse_unknown:
            for name in found:
                problems.note(partial(_unknown_field, path, name, known))
            return
        self._count_unknown(len(found))
        if len(self._named) < _NAMED_LIMIT:
            for name in found[:_NAMED_LIMIT]:
                if name not in self._named:
                    self._named.add(name)
                    log.warning("field %r is not in the spec and is ignored", name)


def _unknown_field(path: str, name: str, known: frozenset[str]) -> Detail:
    near = get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return Detail(f"{path}.{name}", f"unknown field{hint}")


def verify_examples(
    bundle: Bundle,
    encoder: Encoder,
    engine: Scoring,
    tolerance: float,
    precision: Precision = "float32",
) -> float:
    """Check that the golden requests still encode and score as they did for the trainer.

    Returns the largest difference of a logit.

    Raises:
        BundleError: they do not; it says which and by how much.
    """
    if not bundle.examples:
        raise BundleError(f"{bundle.version}: no golden examples")
    worst = 0.0
    for number, example in enumerate(bundle.examples, 1):
        context = np.frombuffer(encoder.context.row(example.context), np.int32)
        candidates = b"".join(map(encoder.candidate.row, example.candidates))
        matrix = np.frombuffer(candidates, np.int32).reshape(-1, encoder.candidate.shape.width)
        if context.tolist() != example.context_row or matrix.tolist() != example.candidate_rows:
            raise BundleError(f"{bundle.version}: golden example {number} encodes to other indices")
        rows = len(matrix)
        scores = engine.score(Batch(context.reshape(1, -1), matrix, np.zeros(rows, np.int32)))
        expected = np.array(example.expected(precision), np.float32)
        if len(expected) != rows:
            raise BundleError(
                f"{bundle.version}: golden example {number} has no {precision} logits"
            )
        difference = np.abs(scores.logit - expected)
        largest = float(difference.max(initial=0.0))
        worst = max(worst, largest)
        # Asked this way round, a difference that is no number is refused too.
        if not largest <= tolerance:
            raise BundleError(
                f"{bundle.version}: golden example {number} scores {largest:.2g} away from the"
                f" trainer's logit; {tolerance:g} is allowed"
            )
    return worst
