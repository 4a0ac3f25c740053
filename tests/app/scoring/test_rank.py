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
from app.scoring.candidate_rows import CandidateRows
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


def encoder(together: bool) -> Encoder:
    """An encoder that looks texts up together, however few it knows, or one by one."""
    spec = FeatureSpec(label="click", fields=tuple(FIELDS))
    longest = max(map(len, KNOWN.values()))
    frame = {
        name: [*values, *[values[0]] * (longest - len(values))] for name, values in KNOWN.items()
    }
    with in_bulk():
        return Encoder(spec, learned(spec, pl.DataFrame(frame)), in_bulk=together)


ENCODER, ONE_BY_ONE = encoder(together=True), encoder(together=False)


def outcome(body: bytes, quick: bool, encoder: Encoder = ENCODER, **limits: Any) -> tuple[Any, ...]:
    """The rows that a body submits, with what its answer needs; or its error, as callers see it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank, "WORTHWHILE_BYTES", 0 if quick else 2**62)
        if not quick:
            patch.setattr(CandidateRows, "read", lambda *_: None)
        return asyncio.run(_outcome(body, encoder, limits))


async def _outcome(body: bytes, encoder: Encoder, limits: Mapping[str, Any]) -> tuple[Any, ...]:
    batcher, request = FakeBatcher(), FakeRequest()
    chosen = Limits(**{name: getattr(LIMITS, name) for name in Limits.__slots__} | limits)
    try:
        for _ in Scorer("version 1", encoder, batcher, chosen).rank(body, request):
            pass
    except ServiceError as error:
        return type(error), error.body(), request.ids
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


@pytest.mark.slow
@given(columns(), st.booleans(), st.sampled_from([None, (",", ":")]), st.booleans())
@settings(max_examples=150)
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


@st.composite
def candidates(draw: st.DrawFn) -> Sequence[Any]:
    """Candidates in row form, most of them usual; at most 40, so that there are several parts."""
    names = [*KNOWN][1:]
    odd = draw(st.sampled_from([0, 0, 1, 3]))

    def one() -> Any:
        row = {name: draw(st.sampled_from(KNOWN[name])) for name in names}
        features: Any = {name: row[name] for name in draw(st.permutations(names))[:5]}
        features["must"] = row["must"]
        candidate: Any = {"id": draw(st.sampled_from([1, "a", None])), "features": features}
        return candidate

    listed = [one() for _ in range(draw(st.integers(0, 4)))] * draw(st.sampled_from([1, 1, 10]))
    for _ in range(odd if listed else 0):
        place = draw(st.integers(0, len(listed) - 1))
        wrong = draw(st.sampled_from(ODD))
        features = listed[place].get("features")
        changed: Any = {
            "value": {**listed[place], "features": {**(features or {}), "item": wrong}},
            "number": {**listed[place], "features": {**(features or {}), "price": wrong}},
            "unknown": {**listed[place], "features": {"unheard of": 1, "must": "x"}},
            "misplaced": {**listed[place], "features": {"user": "a"}},
            "long": {**listed[place], "features": {"must": "x" * 200}},
            "id": {**listed[place], "id": wrong},
            "more": {**listed[place], "more": wrong},
            "nothing": {"features": {}},
            "no features": {"id": 1},
        }
        listed[place] = changed[draw(st.sampled_from([*changed]))]
    return listed


@pytest.mark.slow
@given(candidates(), st.booleans(), st.sampled_from([ENCODER, ONE_BY_ONE]))
@settings(max_examples=300)
def test_candidates_are_read_together_as_one_by_one(
    listed: Sequence[Any], known_only: bool, encoder: Encoder
) -> None:
    """The same rows and ids, or the same error with the same paths in the same order."""
    text = json.dumps({"context": {"user": "a"}, "candidates": listed, "top_k": 3}).encode()
    quick = outcome(text, True, encoder, known_fields_only=known_only)
    assert quick == outcome(text, False, encoder, known_fields_only=known_only)


@pytest.mark.parametrize("encoder", [ENCODER, ONE_BY_ONE], ids=["together", "one by one"])
@pytest.mark.parametrize(
    "features",
    [
        '{"must": "m", "must": "n"}', '{"must": "?", "item": null, "must": null}',
        '{"must": "m", "price": NaN}', '{"must": "m", "price": 1e999}', '{"must": "\\ud800"}',
        '{"must": "m", "number": 123456789012345678901234567890}', '{"must"', "[]", "null",
        "[" * 2000 + "]" * 2000, '{"must": "\xff"}', '{"\\u006dust": "m"}', '{ "must" : "m" }',
    ],
)  # fmt: skip
def test_candidates_of_strange_json(features: str, encoder: Encoder) -> None:
    """Names twice, numbers that are not finite, half of a surrogate, no UTF-8, and no JSON."""
    one = f'{{"id": 1, "features": {features}}}, {{"features": {{"must": "m"}}}}'
    listed = ",".join([one] * 8)
    text = f'{{"context": {{}}, "candidates": [{listed}]}}'.encode("latin-1")
    for limit in (LIMITS.max_row_bytes, 2**20):
        quick = outcome(text, True, encoder, max_row_bytes=limit)
        assert quick == outcome(text, False, encoder, max_row_bytes=limit)


def test_usual_candidates_are_read_together() -> None:
    """Not in the slow way, which takes twice as long."""
    features = {"must": "m", "item": "x", "price": 1.5, "tags": ["t"], "number": 7}
    listed = [{"id": place, "features": features} for place in range(300)]
    text = json.dumps({"context": {}, "candidates": listed}).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank.RankReader, "_encode_one_by_one", None)
        for encoder in (ENCODER, ONE_BY_ONE):
            assert outcome(text, True, encoder)[2] == [*range(300)]


@pytest.mark.parametrize(
    ("rows", "columnar", "parts"),
    [(128, False, [128]), (129, False, [64, 129]), (256, True, [256]), (257, True, [128, 257])],
)
def test_a_list_that_is_no_longer_than_a_part_is_one_part(
    rows: int, columnar: bool, parts: list[int]
) -> None:
    """A second run of the engine costs more than it gains by beginning sooner."""
    listed: Any = [{"features": {"must": "m"}}] * rows
    if columnar:
        listed = {"features": {"must": ["m"] * rows}}
    body = json.dumps({"context": {}, "candidates": listed}).encode()

    async def submitted() -> list[int]:
        batcher = FakeBatcher()
        for _ in Scorer("version 1", ENCODER, batcher, LIMITS).rank(body, FakeRequest()):
            pass
        return [ready for _, ready in batcher.submitted]

    assert asyncio.run(submitted()) == parts
