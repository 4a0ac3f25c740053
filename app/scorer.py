"""The use case: a request's raw features → indices → a shared batch → scores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Protocol

import numpy as np

from app.batch import Batch, Job, Scores, Scoring
from app.bundle import Bundle
from app.decoding import MAX_DETAILS
from app.encoder import ColumnProblem, Encoder, FieldProblems
from app.errors import BundleError, Detail, Invalid, TooLarge, ValueProblem
from app.schemas import Candidate, Columns, PredictBody, RankBody

log = logging.getLogger(__name__)
_NAMED_LIMIT = 1_000
NAME_LENGTH = 64
SLICE_ROWS = 64
"""Rows that are encoded before other requests get their turn of the event loop."""


class Submits(Protocol):
    """What the scorer needs of a batcher."""

    async def submit(self, job: Job) -> Scores:
        """Score a job's rows."""
        ...


class Problems:
    """What is wrong with a request: all of it counted, the first few kept."""

    def __init__(self) -> None:
        self.details: list[Detail] = []
        self.total = 0

    def add(self, path: str, problem: ValueProblem) -> None:
        """Note a problem of the value at ``path``."""
        self.total += 1
        if len(self.details) < MAX_DETAILS:
            place = "" if problem.position is None else f"[{problem.position}]"
            self.details.append(Detail(path + place, problem.problem))

    def error(self) -> Invalid:
        """The answer that tells them."""
        return Invalid("the request has invalid values", self.details, self.total)


class Scorer:
    """Scores requests by one bundle.

    Encoding and validation happen here, in the caller's own request: only valid rows reach a
    batch that others share.
    """

    def __init__(
        self,
        bundle: Bundle,
        encoder: Encoder,
        batcher: Submits,
        max_instances: int,
        max_candidates: int,
        refuse_unknown: bool = False,
        count_unknown: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.version = bundle.version
        self._encoder = encoder
        self._batcher = batcher
        self._max_instances = max_instances
        self._max_candidates = max_candidates
        self._refuse_unknown = refuse_unknown
        self._count_unknown = count_unknown
        self._named: set[str] = set()

    async def predict(
        self, body: PredictBody, deadline: float, departed: Callable[[], bool]
    ) -> Scores:
        """Score each instance.

        Raises:
            ServiceError: the request is refused, or could not be scored.
        """
        instances = body.instances
        if len(instances) > self._max_instances:
            raise TooLarge(f"more than {self._max_instances} instances")
        known = self._encoder.fields
        encode_context, encode_candidate = self._encoder.context.row, self._encoder.candidate.row
        candidates: list[bytes] = []
        places: dict[bytes, int] = {}
        row_context: list[int] = []
        try:
            for start in range(0, len(instances), SLICE_ROWS):
                if start:
                    await asyncio.sleep(0)
                for row, instance in enumerate(instances[start : start + SLICE_ROWS], start):
                    if not known.issuperset(instance):
                        self._unknown(instance, known, f"instances[{row}].")
                    candidates.append(encode_candidate(instance))
                    row_context.append(places.setdefault(encode_context(instance), len(places)))
        except ValueProblem:
            problems = Problems()
            for row, instance in enumerate(instances):
                if row % SLICE_ROWS == SLICE_ROWS - 1:
                    await asyncio.sleep(0)
                for side in (self._encoder.context, self._encoder.candidate):
                    for name, problem in side.problems(instance):
                        problems.add(f"instances[{row}].{name}", problem)
            raise problems.error() from None
        job = Job(
            list(places), b"".join(candidates), len(instances),
            row_context if len(places) > 1 else None, deadline, departed,
        )  # fmt: skip
        return await self._batcher.submit(job)

    async def rank(
        self, body: RankBody, deadline: float, departed: Callable[[], bool]
    ) -> tuple[Scores, list[int]]:
        """Score each candidate for the context, and order them.

        The order is by falling logit; equal logits keep the request's order.

        Raises:
            ServiceError: the request is refused, or could not be scored.
        """
        problems = Problems()
        context = self._encode_context(body.context, problems)
        if isinstance(body.candidates, Columns):
            candidates, rows = await self._encode_columns(body.candidates, problems)
        else:
            candidates, rows = await self._encode_rows(body.candidates, problems)
        if problems.total:
            raise problems.error()
        scores = await self._batcher.submit(
            Job([context], candidates, rows, None, deadline, departed)
        )
        order = np.argsort(-scores.logit, kind="stable")[: body.top_k]
        return scores, order.tolist()

    def _encode_context(self, context: Mapping[str, Any], problems: Problems) -> bytes:
        side = self._encoder.context
        if not side.fields.issuperset(context):
            self._misplaced(context, self._encoder.candidate.fields, "context", problems)
            self._unknown(context, self._encoder.fields, "context.")
        try:
            return side.row(context)
        except ValueProblem:
            for name, problem in side.problems(context):
                problems.add(f"context.{name}", problem)
            return b""

    async def _encode_rows(
        self, candidates: list[Candidate], problems: Problems
    ) -> tuple[bytes | memoryview, int]:
        self._check_count(len(candidates))
        side = self._encoder.candidate
        encode, known = side.row, side.fields
        packed: list[bytes] = []
        try:
            for start in range(0, len(candidates), SLICE_ROWS):
                if start:
                    await asyncio.sleep(0)
                for row, candidate in enumerate(candidates[start : start + SLICE_ROWS], start):
                    features = candidate.features
                    if not known.issuperset(features):
                        path = f"candidates[{row}].features"
                        self._misplaced(features, self._encoder.context.fields, path, problems)
                        self._unknown(features, self._encoder.fields, f"{path}.")
                    packed.append(encode(features))
        except ValueProblem:
            for row, candidate in enumerate(candidates):
                if row % SLICE_ROWS == SLICE_ROWS - 1:
                    await asyncio.sleep(0)
                for name, problem in side.problems(candidate.features):
                    problems.add(f"candidates[{row}].features.{name}", problem)
        return b"".join(packed), len(packed)

    async def _encode_columns(
        self, columns: Columns, problems: Problems
    ) -> tuple[bytes | memoryview, int]:
        side = self._encoder.candidate
        lengths = {
            f"candidates.features.{name}": len(values) for name, values in columns.features.items()
        }
        if columns.id is not None:
            lengths["candidates.id"] = len(columns.id)
        rows = next(iter(lengths.values()), 0)
        for path, length in lengths.items():
            if length != rows:
                problems.add(path, ValueProblem(f"{length} values where others have {rows}"))
        self._check_count(max(lengths.values(), default=0))
        if problems.total or rows == 0:
            return b"", 0
        if not side.fields.issuperset(columns.features):
            self._misplaced(
                columns.features, self._encoder.context.fields, "candidates.features", problems
            )
            self._unknown(columns.features, self._encoder.fields, "candidates.features.")
        try:
            steps = side.column_steps(columns.features, rows)
            while True:
                try:
                    next(steps)
                except StopIteration as done:
                    return done.value.data.cast("B"), rows
                if rows > SLICE_ROWS:
                    await asyncio.sleep(0)
        except FieldProblems as wrong:
            for name, column in wrong.fields.items():
                self._add_column(f"candidates.features.{name}", column, problems)
            return b"", 0

    @staticmethod
    def _add_column(path: str, column: ColumnProblem, problems: Problems) -> None:
        for row, problem in column.problems:
            problems.add(f"{path}[{row}]", problem)

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

    def _unknown(self, names: Iterable[str], known: frozenset[str], path: str) -> None:
        """Refuse, or count and once name, fields that the spec does not know."""
        # A name may be as long as the body; its start is enough to tell it by.
        found = [name[:NAME_LENGTH] for name in names if name not in known]
        if not found:
            return
        if self._refuse_unknown:
            details = []
            for name in found[:MAX_DETAILS]:
                near = get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                details.append(Detail(path + name, f"unknown field{hint}"))
            raise Invalid("unknown fields", details, len(found))
        self._count_unknown(len(found))
        for name in found:
            if name not in self._named and len(self._named) < _NAMED_LIMIT:
                self._named.add(name)
                log.warning("field %r is not in the spec and is ignored", name)


def verify_examples(bundle: Bundle, encoder: Encoder, engine: Scoring, tolerance: float) -> float:
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
        difference = np.abs(scores.logit - np.array(example.logits, np.float32))
        largest = float(difference.max(initial=0.0))
        worst = max(worst, largest)
        # Asked this way round, a difference that is no number is refused too.
        if not largest <= tolerance:
            raise BundleError(
                f"{bundle.version}: golden example {number} scores {largest:.2g} away from the"
                f" trainer's logit; {tolerance:g} is allowed"
            )
    return worst
