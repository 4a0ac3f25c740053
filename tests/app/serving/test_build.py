"""A loaded bundle → batcher, scorer and metrics, and their end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from app.errors import NotReady
from app.features.graph_inputs import Scores
from app.scoring.scorer import Scorer
from tests.conftest import Sample
from tests.support.fakes import FakeRequest
from tests.support.inside import until
from tests.support.serving_parts import parts

pytestmark = pytest.mark.anyio


def ask(scorer: Scorer, rows: Sequence[object]) -> FakeRequest:
    """Ask for the scores of rows, as the endpoints do."""
    request = FakeRequest()
    for _ in scorer.predict(json.dumps({"instances": rows}).encode(), request):
        pass
    return request


@pytest.mark.parametrize("metrics", ["on", "off"])
async def test_a_built_bundle_scores_and_is_counted(
    tiny_bundle: Path, sample: Sample, metrics: str
) -> None:
    """Its scores are the engine's; with metrics off nothing is counted."""
    async with parts(tiny_bundle, metrics=metrics) as worker:
        built = await worker.builder.build(await worker.loader.load(tiny_bundle))
        request = ask(built.scorer, [*sample.rows[:3], {**sample.rows[3], "colour": "red"}])
        await until(lambda: request.answer is not None, "it is scored")
        assert isinstance(request.answer, Scores)
        assert np.isfinite(request.answer.logit).all()
        assert worker.metrics.events.totals()["unknown_fields"] == 1
        counted = worker.metrics.registry.get_sample_value("ctr_batch_rows_sum")
        assert counted == (4 if metrics == "on" else 0)


async def test_closing_answers_what_waits(tiny_bundle: Path, sample: Sample) -> None:
    """Callers that still wait for the bundle's engine are told that the service ends."""
    async with parts(tiny_bundle, batch_linger_us=10_000_000) as worker:
        built = await worker.builder.build(await worker.loader.load(tiny_bundle))
        request = ask(built.scorer, sample.rows[:3])
        assert request.answer is None
        await worker.builder.close_all()
        assert isinstance(request.answer, NotReady)
