"""Lists that are read in a quick way reach the queue, or are refused, as in the slow way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ServiceError
from app.features.encoder import Encoder
from app.features.spec import Categorical, FeatureSpec, Field
from app.scoring import rank
from app.scoring.limits import Limits
from app.scoring.scorer import Scorer
from tests.app.scoring.test_scorer import LIMITS
from tests.support.encoding import PRICE, TAGS, USER, in_bulk
from tests.support.fakes import FakeBatcher, FakeRequest
from tests.support.frames import learned

FIELDS: Sequence[Field] = (
    USER,
    Categorical(name="item", side="candidate", min_count=1),
    Categorical(name="must", side="candidate", min_count=1, required=True),
    Categorical(name="number", side="candidate", min_count=1, dtype="integer"),
    PRICE,
    TAGS,
)
KNOWN: Mapping[str, Sequence[Any]] = {
    "user": ["a", "b", None],
    "item": ["x", "y", "é", "a long text, over sixteen bytes", "", 'q"', None],
    "must": ["x", "m", "n"],
    "number": [1, 2, None],
    "price": [0.5, 1.5, None],
    "tags": [["t", "u"], [], None],
}
"""Values of each field; training has seen them."""
ODD: Sequence[Any] = [1, 2**64, 1.5, True, "?", "1", [], ["t", None], {}, {"a": "b"}, "\u0001"]
"""Values that break a rule of some field, or are rare."""


def bulk_encoder() -> Encoder:
    """An encoder that looks texts up together, however few it knows."""
    spec = FeatureSpec(label="click", fields=tuple(FIELDS))
    longest = max(map(len, KNOWN.values()))
    frame = {
        name: [*values, *[values[0]] * (longest - len(values))] for name, values in KNOWN.items()
    }
    with in_bulk():
        return Encoder(spec, learned(spec, pl.DataFrame(frame)), in_bulk=True)


ENCODER = bulk_encoder()


def outcome(body: bytes, quick: bool, **limits: Any) -> tuple[Any, ...]:
    """The rows that a body submits, with what its answer needs; or its error, as callers see it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank, "WORTHWHILE_BYTES", 0 if quick else 2**62)
        return asyncio.run(_outcome(body, limits))


async def _outcome(body: bytes, limits: Mapping[str, Any]) -> tuple[Any, ...]:
    batcher, request = FakeBatcher(), FakeRequest()
    chosen = Limits(**{name: getattr(LIMITS, name) for name in Limits.__slots__} | limits)
    try:
        for _ in Scorer("version 1", ENCODER, batcher, chosen).rank(body, request):
            pass
    except ServiceError as error:
        return type(error), error.body(), len(batcher.cancelled)
    [job] = {id(job): job for job, _ in batcher.submitted}.values()
    assert job.ready == job.rows
    return bytes(job.candidates), job.contexts, request.ids, request.rows, request.top_k


def values(name: str) -> st.SearchStrategy[Any]:
    """Values of a field: known ones, and now and then an odd one."""
    odd = st.sampled_from(ODD)
    return st.integers(0, 30).flatmap(lambda n: odd if n == 0 else st.sampled_from(KNOWN[name]))


@st.composite
def columns(draw: st.DrawFn) -> Mapping[str, Sequence[Any]]:
    """Columns, most of them of one length and of usual values."""
    rows = draw(st.integers(0, 8))
    names = draw(st.permutations([*KNOWN, "unheard of"]).map(lambda names: names[:-2]))
    plain = draw(st.booleans())
    found: dict[str, Sequence[Any]] = {}
    for name in names:
        own = values(name) if name in KNOWN else st.just("x")
        if plain and name in ("item", "must"):
            own = st.sampled_from(["x", "y", "?", "", "a long text, over sixteen bytes"])
        length = rows + (draw(st.integers(0, 20)) == 0)
        found[name] = draw(st.lists(own, min_size=length, max_size=length))
    return found


@given(columns(), st.booleans(), st.sampled_from([None, (",", ":")]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_columns_are_read_as_if_they_were_decoded(
    features: Mapping[str, Sequence[Any]],
    ids: bool,
    separators: tuple[str, str] | None,
    known_only: bool,
) -> None:
    """The same rows, or the same error with the same paths in the same order."""
    rows = len(next(iter(features.values()), ()))
    listed = {"features": features} | ({"id": list(range(rows))} if ids else {})
    body = {"context": {"user": "a"}, "candidates": listed}
    text = json.dumps(body, separators=separators).encode()
    assert outcome(text, True, known_fields_only=known_only) == outcome(
        text, False, known_fields_only=known_only
    )


def test_columns_in_several_blocks_are_read_as_if_they_were_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where they are too long to be read in one step, and where one of them must be decoded."""
    monkeypatch.setattr(rank, "BLOCK_BYTES", 300)
    for item in ("x", None):
        features = {"item": ["x", "y"] * 30 + [item], "must": ["m", "n"] * 30 + ["?"]}
        body = json.dumps({"context": {}, "candidates": {"features": features}}).encode()
        assert outcome(body, True) == outcome(body, False)
        assert len(outcome(body, True)) == 5
