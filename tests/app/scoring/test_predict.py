"""A short body is read in one step as it is read in many, or left to them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.errors import ServiceError
from app.features.encoder import Encoder
from app.scoring.job import Job
from app.scoring.predict import SHORT_BODY, STEP_ROWS, PredictReader
from app.scoring.problems import FieldNames
from app.scoring.steps import Steps
from tests.app.scoring.test_scorer import ENCODER, LIMITS

ROW = {"user": "a", "item": "x", "price": 1}
OTHER = {"user": "b", "item": "y", "price": 2.5}


def text(*instances: Any, **more: Any) -> bytes:
    """A body."""
    return json.dumps({"instances": instances, **more}).encode()


BODIES = [
    text(), text({}), text(ROW), text(OTHER, ROW), text(ROW, ROW, OTHER), text(ROW | OTHER, more=1),
    text({"user": None}, {"item": ""}, {"price": None}), text({"user": "new"}, {"price": 1e30}),
    text({"user": 1}), text({"price": "dear"}), text({"price": True}), text(ROW, 3), text(None),
    text({"colour": "red"}), text([]), text(*[ROW] * 5), text(*[ROW] * 6),
    b'{"instances": 3, "instances": [{"user": "a"}]}', b'{"instances": [{"user": "a"}, ]}',
    b'{"instances": [{"user": "a", "user": "b"}]}', b'{"instances": [{"us\\u0065r": "\\u0061"}]}',
    b'{"instances": [{"price": NaN}]}', b'{"instances": [{"price": 1e999}]}', b"", b"\xff", b"[]",
    b'{"instances": [{"user": "' + b"a" * 300 + b'"}]}', b'{"instances": ' + b"[" * 3_000,
    b'{"instances": [{"user": {"a": [1]}}]}', b'{"instances": [{"user": "\xff"}]}',
    b' {"instances" : [ { "user" : "a" } ] } ', b'{"instances": [{"user": "a"}]} x',
]  # fmt: skip


def reader(encoder: Encoder = ENCODER, **limits: Any) -> PredictReader:
    """A reader of bodies."""
    bounds = replace(LIMITS, **limits)
    return PredictReader(encoder, bounds, FieldNames(encoder, bounds.known_fields_only))


def read_short(reads: PredictReader, body: bytes, request: Any) -> Job | None:
    """The job of a body that is read at once."""
    instances = reads.decode_short(body)
    return None if instances is None else reads.job(instances, request)


def request() -> Any:
    """A request that is told its rows."""
    return SimpleNamespace(rows=None)


def to_its_end(steps: Steps[Job]) -> Job:
    """Take all steps; return what they come to."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return cast(Job, done.value)


def rows_of(job: Job) -> tuple[Any, ...]:
    """The rows of a job as a batch reads them."""
    return job.rows, job.contexts, bytes(job.candidates), job.row_context, job.ready


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:60]))
@pytest.mark.parametrize("known_only", [False, True])
def test_one_step_gives_the_rows_of_many_or_nothing(body: bytes, known_only: bool) -> None:
    """A body that is read at once has the job that steps make; a refused one is left to them."""
    short, long = request(), request()
    reads = reader(known_fields_only=known_only)
    at_once = read_short(reads, body, short)
    try:
        job = to_its_end(reads.read(body, long, None))
    except ServiceError:
        assert at_once is None
    else:
        assert at_once is None or rows_of(at_once) == rows_of(job)
        assert at_once is None or short.rows == long.rows


def test_usual_bodies_are_read_at_once() -> None:
    """Up to as many rows as a step takes, of a length that a row may have."""
    many = reader(max_instances=100, max_row_bytes=2**16)
    assert read_short(many, text(ROW), request()) is not None
    assert read_short(many, text(*[ROW] * STEP_ROWS), request()) is not None
    assert read_short(many, text(*[ROW] * (STEP_ROWS + 1)), request()) is None
    padded = text(ROW).ljust(SHORT_BODY)
    assert read_short(many, padded, request()) is not None
    assert read_short(many, padded + b" ", request()) is None
    assert read_short(reader(max_row_bytes=20), text(ROW), request()) is None
    assert read_short(reader(max_instances=1), text(ROW, ROW), request()) is None
