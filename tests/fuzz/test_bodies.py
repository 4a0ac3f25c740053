"""Mutated bodies are answered, each in the one shape, and nobody else notices."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.conftest import Sample, StartService
from tests.fuzz.bodies import Maker, write
from tests.fuzz.campaign import fuzz
from tests.support.serving import strict

pytestmark = pytest.mark.e2e

BODIES = 6_000
SEED = 6


def test_mutated_bodies_harm_nobody(start_service: StartService, sample: Sample) -> None:
    """No 5xx, none without an answer, one wrong value is named by its path, and valid requests
    in between get their own scores.
    """
    service = start_service(deadline_ms=30_000)
    rows = [dict(row) for row in sample.rows[:200]]
    expected = [service.predict([row])[0] for row in rows]
    outcome = asyncio.run(fuzz(service.port, rows, expected, BODIES, SEED))
    assert outcome.problems == []
    assert outcome.statuses.total() == BODIES
    assert {200, 400, 422} <= set(outcome.statuses), f"one-sided: {outcome.statuses}"
    assert min(outcome.statuses[status] for status in (200, 400, 422)) > BODIES / 20
    assert outcome.neighbours == BODIES / 4
    assert not [event for event in service.events() if event["level"] == "error"]


def test_a_body_depends_on_its_number_alone(sample: Sample) -> None:
    """A body that failed once can be made again by its seed and number."""
    maker = Maker(sample.rows[:50], SEED)
    numbers = list(range(60))
    bodies = [maker.make(number) for number in numbers]
    random.Random(1).shuffle(numbers)
    again = {number: Maker(sample.rows[:50], SEED).make(number) for number in numbers}
    assert [again[number] for number in range(60)] == bodies
    assert len({made.body for made in bodies}) == 60


def test_what_is_not_mutated_is_written_as_it_is(sample: Sample) -> None:
    """The writer alone damages nothing."""
    assert strict(write({"instances": sample.rows[:3]})) == {"instances": sample.rows[:3]}
