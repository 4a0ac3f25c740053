"""Rows that are encoded together have the words that each has alone; wrong ones are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ValueProblem
from app.features.encoder import Encoder
from app.features.row_batches import MOST_ROWS, RowBatches
from app.features.spec import Categorical, FeatureSpec
from tests.app.features.test_text_rows import VALUES
from tests.support.encoding import PRICE, in_bulk
from tests.support.frames import learned
from tests.support.logs import Log, logs


def bulk_encoder(log: Log, rows: int) -> Encoder:
    """An encoder of a log's spec that looks texts up together."""
    with in_bulk():
        return Encoder(log.spec, learned(log.spec, log.parquet()[:rows]), in_bulk=True)


def alone(encoder: Encoder, instance: Any) -> tuple[bytes, bytes] | None:
    """The words of an instance; None where a value breaks a rule."""
    try:
        return encoder.context_of(instance), encoder.candidate_of(instance)
    except ValueProblem:
        return None


def together(encoder: Encoder, instances: Sequence[Any]) -> list[tuple[bytes, bytes] | None]:
    """The same of many, encoded in one go."""
    assert encoder.texts is not None
    batch = RowBatches(encoder, encoder.texts).encode(instances)
    rows = zip(batch.contexts, batch.candidates, strict=True)
    return [None if place in batch.wrong else row for place, row in enumerate(rows)]


@pytest.mark.slow
@given(logs(), st.integers(1, 8), st.data())
@settings(max_examples=150)
def test_rows_of_a_batch_are_the_rows_alone(log: Log, rows: int, data: st.DataObject) -> None:
    """For every kind of field, with wrong values among them: a bad neighbour changes nothing."""
    encoder = bulk_encoder(log, rows)
    if encoder.instance is None or encoder.texts is None:
        return
    sent = [log.row(number) for number in range(log.rows)]
    for row in sent:
        for name in log.columns:
            if data.draw(st.integers(0, 9)) == 0:
                wrong = data.draw(st.sampled_from(VALUES))
                row[name] = None if isinstance(wrong, str) and "\ud800" in wrong else wrong
    instances = [msgspec.convert(row, encoder.instance) for row in sent]
    assert together(encoder, instances) == [alone(encoder, each) for each in instances]


def test_a_batch_of_the_largest_size() -> None:
    """Rows of one field, and of a side without any word of text."""
    with in_bulk():
        field = Categorical(name="user", side="context", min_count=1)
        spec = FeatureSpec(label="click", fields=(field, PRICE))
        frame = pl.DataFrame({"user": ["a", "b", None], "price": [0.5, 1.5, None]})
        encoder = Encoder(spec, learned(spec, frame), in_bulk=True)
    assert encoder.instance is not None
    sent = [{"user": "ab?"[n % 3], "price": n / 50} for n in range(MOST_ROWS)]
    instances = [msgspec.convert(row, encoder.instance) for row in sent]
    assert together(encoder, instances) == [alone(encoder, each) for each in instances]
