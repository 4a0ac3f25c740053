"""A request's rows reach the queue encoded and checked; a long list travels in parts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest

from app.errors import Invalid, Overloaded, ServiceError, TooLarge, VocabularyUnavailable
from app.features.column_encoding import Misses
from app.features.encoder import Encoder, Fetched
from app.features.graph_inputs import Scores
from app.features.row_batches import MOST_ROWS
from app.features.spec import Categorical, FeatureSpec
from app.scoring.batcher import LEARNING_RUNS, MicroBatcher
from app.scoring.job import Job
from app.scoring.limits import Limits
from app.scoring.predict import WORTHWHILE_ROWS
from app.scoring.rank import PART_ROWS
from app.scoring.scorer import Scorer, VocabularySource
from app.scoring.steps import Steps
from tests.support.encoding import PRICE, USER, in_bulk
from tests.support.fakes import FakeBatcher, FakeEngine, FakeRequest
from tests.support.frames import learned
from tests.support.turns import until

pytestmark = pytest.mark.anyio
ITEM = Categorical(name="item", side="candidate", min_count=1)
SPEC = FeatureSpec(label="click", fields=(USER, ITEM, PRICE))
FRAME = pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "price": [1, 2]})
VOCABULARY = learned(SPEC, FRAME)
ENCODER = Encoder(SPEC, VOCABULARY)
ITEMS = VOCABULARY.slots["item"].lookup()  # type: ignore[union-attr]
LIMITS = Limits(
    max_body_bytes=2**20,
    max_row_bytes=200,
    max_instances=5,
    max_candidates=500,
    max_catalogue_rows=5_000,
    known_fields_only=False,
    receive_seconds=60.0,
    deadline_seconds=60.0,
)
FIRST = PART_ROWS // 2


def candidates(count: int, item: str = "x") -> list[dict[str, Any]]:
    return [{"item": item, "price": number / 100} for number in range(count)]


def predict_body(instances: Sequence[Mapping[str, Any]]) -> bytes:
    return json.dumps({"instances": instances}).encode()


def rank_body(rows: Sequence[Mapping[str, Any]], form: str = "rows", **more: Any) -> bytes:
    """A list for user a, as rows or as columns; ids are the places."""
    listed: Any = [{"id": place, "features": row} for place, row in enumerate(rows)]
    if form == "columns":
        names = {name for row in rows for name in row}
        columns = {name: [row.get(name) for row in rows] for name in sorted(names)}
        listed = {"id": list(range(len(rows))), "features": columns}
    return json.dumps({"context": {"user": "a"}, "candidates": listed, **more}).encode()


def scorer(batcher: Any, vocabulary: VocabularySource | None = None, **limits: Any) -> Scorer:
    encoder = ENCODER if vocabulary is None else Encoder(SPEC, VOCABULARY, {"item": {}})
    chosen = Limits(**{name: getattr(LIMITS, name) for name in Limits.__slots__} | limits)
    return Scorer("version 1", encoder, batcher, chosen, vocabulary=vocabulary)


class Through:
    """A vocabulary whose users are in the tables and whose items must be fetched."""

    def __init__(self, error: Exception | None = None, degraded: bool = False) -> None:
        self.asked: list[Misses] = []
        self.error, self.degraded = error, degraded

    async def fetch(self, misses: Misses, deadline: float) -> Fetched:
        await asyncio.sleep(0)
        self.asked.append(dict(misses))
        if self.error is not None:
            raise self.error
        rows = [ITEMS[key] for _, key in misses]
        return Fetched(np.array(rows, np.int32), self.degraded)


async def finish(steps: Steps[None]) -> None:
    """Take all steps, as the endpoints do: others have a turn between them."""
    for wait in steps:
        if wait is None:
            await asyncio.sleep(0)
        else:
            await asyncio.wait([asyncio.ensure_future(wait)])


def packed(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(map(ENCODER.candidate.row, rows))


async def test_instances_with_one_context_share_its_row() -> None:
    """The graph computes a context once, however many of a request's rows have it."""
    batcher, request = FakeBatcher(), FakeRequest()
    rows = [{"user": u, **c} for u, c in zip("aba", candidates(3), strict=True)]
    await finish(scorer(batcher).predict(predict_body(rows), request))
    [(job, ready)] = batcher.submitted
    assert (job.rows, ready, request.rows) == (3, 3, 3)
    assert job.contexts == [ENCODER.context.row({"user": u}) for u in "ab"]
    assert job.row_context == [0, 1, 0]
    assert job.candidates == packed(candidates(3))


async def test_one_context_needs_no_numbers() -> None:
    """Where all rows have one context, no list says which is whose."""
    batcher = FakeBatcher()
    body = predict_body([{"user": "a", **each} for each in candidates(2)])
    await finish(scorer(batcher).predict(body, FakeRequest()))
    assert batcher.submitted[0][0].row_context is None


@pytest.mark.parametrize("form", ["rows", "columns"])
async def test_a_list_is_submitted_part_by_part(form: str) -> None:
    """The first part is short, so that the engine starts soon; the others follow."""
    batcher, request = FakeBatcher(), FakeRequest()
    rows = candidates(300)
    await finish(scorer(batcher).rank(rank_body(rows, form, top_k=7), request))
    jobs, ready = zip(*batcher.submitted, strict=True)
    assert len(set(map(id, jobs))) == 1
    assert ready == (FIRST, FIRST + PART_ROWS, 300)
    assert bytes(jobs[0].candidates) == packed(rows)
    assert jobs[0].contexts == [ENCODER.context.row({"user": "a"})]
    assert (request.rows, request.top_k, request.ids) == (300, 7, list(range(300)))
    assert batcher.cancelled == []


@pytest.mark.parametrize("form", ["rows", "columns"])
async def test_the_engine_scores_while_the_rest_is_encoded(form: str) -> None:
    """Before the last step of a long list, its first part has its scores."""
    engine, request, rows = FakeEngine(), FakeRequest(), candidates(300)
    async with MicroBatcher(engine, 1, 2, inline_seconds=-1) as batcher:
        batcher.cost.runs = LEARNING_RUNS
        steps = scorer(batcher).rank(rank_body(rows, form), request)
        while not batcher.queued_rows:
            next(steps)
        await until(lambda: engine.batches and batcher.queued_rows == 300 - FIRST)
        assert request.answer is None
        await finish(steps)
        await until(lambda: request.answer)
    assert isinstance(request.answer, Scores)
    words = np.frombuffer(packed(rows), np.int32).reshape(-1, 2)
    context = np.frombuffer(ENCODER.context.row({"user": "a"}), np.int32)
    assert request.answer.logit.tolist() == (words.sum(1) + context.sum()).tolist()


@pytest.mark.parametrize("form", ["rows", "columns"])
async def test_a_problem_in_a_late_part_refuses_the_whole_list(form: str) -> None:
    """The answer names the problems of all parts; the rows not scored yet leave the queue."""
    engine, request, rows = FakeEngine(), FakeRequest(), candidates(400)
    for place in (150, 250, 399):
        rows[place]["price"] = "dear"
    async with MicroBatcher(engine, 1, 2, inline_seconds=-1) as batcher:
        engine.gate.clear()
        with pytest.raises(Invalid) as caught:
            await finish(scorer(batcher).rank(rank_body(rows, form), request))
        engine.gate.set()
        await until(lambda: not batcher.queued_rows)
    assert caught.value.total == 3
    places = [150, 250, 399]
    assert [detail.path for detail in caught.value.details] == [
        f"candidates[{place}].features.price" if form == "rows"
        else f"candidates.features.price[{place}]" for place in places
    ]  # fmt: skip
    assert request.answer is None, "its answer is the error"


async def test_a_list_that_is_given_up_is_cancelled() -> None:
    """Whoever drives the steps may stop; rows that were promised leave the queue."""
    batcher = FakeBatcher()
    steps = scorer(batcher).rank(rank_body(candidates(300)), FakeRequest())
    while not batcher.submitted:
        next(steps)
    steps.close()
    assert batcher.cancelled == [batcher.submitted[0][0]]


async def test_requests_that_are_being_read_are_counted() -> None:
    """However a request ends, it counts until then: its bundle is kept so long."""
    uses = scorer(FakeBatcher())
    ends = [uses.rank(rank_body(candidates(300)), FakeRequest()) for _ in range(2)]
    refused = uses.rank(rank_body([{"price": "dear"}] * 300), FakeRequest())
    predicted = uses.predict(predict_body([{}] * 3), FakeRequest())
    assert uses.reading == 0, "none has begun"
    for steps in (*ends, refused):
        next(steps)
    assert uses.reading == 3
    await finish(ends[0])
    ends[1].close()
    with pytest.raises(Invalid):
        await finish(refused)
    await finish(predicted)
    assert uses.reading == 0


GATHERED = [
    {"user": "a", "item": "x", "price": 1}, {"user": "b"}, {}, {"price": "dear"}, {"user": [1]},
    {"user": "new", "price": 2.5}, {"item": "\ud800"}, {"user": None, "item": ""},
]  # fmt: skip


@pytest.mark.parametrize("count", [WORTHWHILE_ROWS - 1, WORTHWHILE_ROWS, 2 * MOST_ROWS + 3])
async def test_callers_that_come_together_are_encoded_together(count: int) -> None:
    """Each has the rows or the error that it has alone; a bad neighbour harms nobody."""
    instances = [[GATHERED[n % len(GATHERED)], GATHERED[n // 3 % 3]] for n in range(count // 2 + 1)]
    told: list[list[Any]] = []
    for company in (1, WORTHWHILE_ROWS):
        batcher = FakeBatcher()
        batcher.company = company
        with in_bulk():
            encoder = Encoder(SPEC, VOCABULARY, in_bulk=True)
        uses = Scorer("version 1", encoder, batcher, LIMITS)
        requests = [FakeRequest() for _ in instances]
        for request, rows in zip(requests, instances, strict=True):
            body = predict_body(rows)
            if not uses.predict_short(body, request):
                try:
                    await finish(uses.predict(body, request))
                except ServiceError as error:
                    request.failed(error)
        assert bool(uses.reading) == (company > 1)
        await until(lambda uses=uses: uses.reading == 0)
        jobs = {id(job.caller): job for job, _ in batcher.submitted}
        told.append([
            (job.contexts, job.candidates, job.row_context, request.rows)
            if (job := jobs.get(id(request)))
            else "refused"
            for request in requests
        ])  # fmt: skip
        refused = [request for request in requests if id(request) not in jobs]
        assert all(isinstance(request.answer, ServiceError) for request in refused)
    assert told[0] == told[1]
    assert "refused" in told[0]


async def test_a_full_queue_is_told_to_those_that_it_refuses() -> None:
    """Of callers that come together some may find no room."""
    batcher, requests = FakeBatcher(), [FakeRequest() for _ in range(WORTHWHILE_ROWS)]
    batcher.company = WORTHWHILE_ROWS
    submit = batcher.submit

    def submit_some(job: Job) -> None:
        if len(batcher.submitted) == 3:
            raise Overloaded("the scoring queue is full", 1.0)
        submit(job)

    batcher.submit = submit_some  # type: ignore[method-assign]
    with in_bulk():
        uses = Scorer("version 1", Encoder(SPEC, VOCABULARY, in_bulk=True), batcher, LIMITS)
    for request in requests:
        assert uses.predict_short(predict_body([{"user": "a"}]), request)
    await until(lambda: uses.reading == 0)
    assert [type(request.answer) for request in requests] == [type(None)] * 3 + [Overloaded] * 5


async def test_an_answered_list_is_encoded_no_further() -> None:
    """After its deadline, or a failed run, the rest of a list costs nothing."""
    batcher = FakeBatcher()
    steps = scorer(batcher).rank(rank_body(candidates(500)), FakeRequest())
    while not batcher.submitted:
        next(steps)
    batcher.submitted[0][0].fail(Invalid("another answer"))
    await finish(steps)
    assert len(batcher.submitted) == 1
    assert len(batcher.cancelled) == 1


async def test_an_empty_list_is_answered() -> None:
    """No candidates are a job without rows, which needs no engine."""
    for form in ("rows", "columns"):
        batcher, request = FakeBatcher(), FakeRequest()
        await finish(scorer(batcher).rank(rank_body([], form), request))
        assert [(job.rows, ready) for job, ready in batcher.submitted] == [(0, 0)]
        assert request.rows == 0


async def test_values_that_the_tables_lack_are_fetched_once() -> None:
    """All misses of a list go out together, after its last part; then its rows are complete."""
    through, batcher, request = Through(), FakeBatcher(), FakeRequest()
    rows = candidates(300)
    rows[200]["item"] = rows[299]["item"] = "y"
    await finish(scorer(batcher, through).rank(rank_body(rows), request))
    assert through.asked == [{("item", "x"): 0, ("item", "y"): 1}]
    [(job, ready)] = batcher.submitted
    assert (ready, request.degraded) == (300, False)
    assert job.candidates == packed(rows)


async def test_parts_before_the_first_miss_are_scored_meanwhile() -> None:
    """A later miss does not hold up rows that were complete, and changes none of them."""
    through, batcher = Through(), FakeBatcher()
    rows = candidates(300)
    for row in rows[:100]:
        row["item"] = None
    await finish(scorer(batcher, through).rank(rank_body(rows), FakeRequest()))
    assert [ready for _, ready in batcher.submitted] == [FIRST, 300]
    assert batcher.submitted[0][0].candidates == packed(rows)


async def test_degraded_vocabulary_is_told() -> None:
    """The answer says that values may count as OOV for lack of Redis."""
    batcher, request = FakeBatcher(), FakeRequest()
    body = predict_body([{"user": "a", **each} for each in candidates(2)])
    await finish(scorer(batcher, Through(degraded=True)).predict(body, request))
    assert request.degraded
    assert batcher.submitted[0][0].candidates == packed(candidates(2))


async def test_without_the_vocabulary_nothing_is_queued() -> None:
    """The fetch's error is the answer; the job leaves no rows behind."""
    batcher, through = FakeBatcher(), Through(VocabularyUnavailable("Redis does not answer"))
    with pytest.raises(VocabularyUnavailable):
        await finish(scorer(batcher, through).rank(rank_body(candidates(300)), FakeRequest()))
    assert batcher.submitted == []
    assert len(batcher.cancelled) == 1
    body = predict_body([{"item": "x"}])
    with pytest.raises(VocabularyUnavailable):
        await finish(scorer(batcher, through).predict(body, FakeRequest()))
    assert batcher.submitted == []


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (predict_body([{}] * 6), []),
        (predict_body([{}, {"user": "u" * 200}]), ["instances[1]"]),
        (rank_body(candidates(501)), []),
        (rank_body(candidates(501), "columns"), []),
        (rank_body([{}, {"item": "i" * 200}]), ["candidates[1]"]),
        (b'{"context": {"user": "' + b"u" * 200 + b'"}, "candidates": []}', ["context"]),
    ],
)
async def test_limits_are_kept(body: bytes, where: list[str]) -> None:
    """One row or byte more than the limits is refused with 413, and the part is named."""
    batcher, request = FakeBatcher(), FakeRequest()
    uses = scorer(batcher)
    with pytest.raises(TooLarge) as caught:
        await finish((uses.predict if b"instances" in body else uses.rank)(body, request))
    assert [detail.path for detail in caught.value.details] == where


async def test_columns_must_be_of_one_length() -> None:
    """Each column that differs from the first is named, and the ids too."""
    columns = {"item": ["x", "y"], "price": [1]}
    body = {"context": {}, "candidates": {"features": columns, "id": [1, 2, 3]}}
    with pytest.raises(Invalid) as caught:
        await finish(scorer(FakeBatcher()).rank(json.dumps(body).encode(), FakeRequest()))
    assert [tuple(detail) for detail in caught.value.details] == [
        ("candidates.features.price", "length 1, expected 2 as in the first list"),
        ("candidates.id", "length 3, expected 2 as in the first list"),
    ]


async def test_no_step_encodes_many_rows() -> None:
    """Between two steps others have their turn, however long a list is."""
    for form, least in (("rows", 300 // 8), ("columns", 3 * 2)):
        steps = scorer(FakeBatcher()).rank(rank_body(candidates(300), form), FakeRequest())
        assert sum(1 for _ in steps) >= least
