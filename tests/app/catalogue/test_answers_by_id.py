"""A ranking by id is the one that the same values in the request get: the catalogue's promise.

Over random catalogues, changes, overrides and requests, for every network in float32 and int8, and
specs with and without dynamic fields.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from app.bundle.manifest import SPLIT_GRAPHS, Precision
from app.catalogue import follower
from app.catalogue.follower import Follower
from app.catalogue.item_parts import ItemParts
from app.catalogue.parts_file import PREFIX, PartsFile
from app.errors import Invalid
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch, Scores
from app.features.keys import text_key
from app.features.spec import Categorical, FeatureSpec, Field, MultiCategorical, Numeric, Time
from app.features.vocabulary import Vocabulary
from app.scoring.batcher import MicroBatcher
from app.scoring.engine import INT8_TOLERANCE, Engine
from app.scoring.job import Scoring
from app.scoring.limits import Limits
from app.scoring.part_scoring import PartScoring
from app.scoring.scorer import Scorer
from app.scoring.split_engine import SplitEngine
from app.store.sqlite import SqliteStore
from app.store.store import Item
from model.config import NETWORKS, TrainConfig
from model.data.dataset import Dataset
from model.export.quantize import write_int8
from model.export.split import write_split
from tests.app.scoring.test_scorer import finish
from tests.support.fakes import FakeRequest
from tests.support.frames import learned
from tests.support.graphs import SPLIT_DYNAMIC, exported_below
from tests.support.networks import trained
from tests.support.turns import until

pytestmark = pytest.mark.slow
TOLERANCE: Mapping[Precision, float] = {"float32": 2e-5, "int8": INT8_TOLERANCE}
"""Of a logit; weights are far from zero, so that logits are some tens."""
FIELDS: tuple[Field, ...] = (
    Categorical(name="user", side="context", dtype="integer", min_count=1),
    MultiCategorical(name="likes", side="context", min_count=1, max_values=3),
    MultiCategorical(name="seen", side="context", dtype="integer", attends="item", max_values=4),
    Numeric(name="age", side="context", encoding="scaled"),
    Categorical(name="item", side="candidate", dtype="integer", min_count=1),
    Categorical(name="brand", side="candidate", min_count=1, null_values=("none",)),
    MultiCategorical(name="tags", side="candidate", min_count=1, max_values=3),
    Numeric(name="price", side="candidate", encoding="edges", edges=(1.0, 2.0, 5.0)),
    Numeric(name="size", side="candidate", encoding="scaled"),
    Time(name="made", side="candidate", parts=("hour", "weekday")),
)
WORDS = ["a", "b", "c", "d"]
TEXT = st.sampled_from([*WORDS, "none", "", "unheard of", 7])
LIST = st.none() | st.lists(st.sampled_from([*WORDS, "unheard of"]), max_size=5)
NUMBER = st.none() | st.sampled_from([0, 0.5, 1, 2.5, -3.25, 1e9])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "item": st.none() | st.integers(0, 12) | st.sampled_from(["3", 4.0]),
    "brand": st.none() | TEXT,
    "tags": LIST,
    "price": NUMBER,
    "size": NUMBER,
    "made": st.none() | st.integers(0, 10**9),
}
CONTEXT: dict[str, st.SearchStrategy[Any]] = {
    "user": st.none() | st.integers(0, 9), "likes": LIST, "age": NUMBER,
    "seen": st.none() | st.lists(st.integers(0, 12), max_size=6),
}  # fmt: skip
CANDIDATES = st.fixed_dictionaries({}, optional=VALUES)
LIMITS = Limits(
    max_body_bytes=2**20,
    max_row_bytes=2**16,
    max_instances=1_000,
    max_candidates=1_000,
    max_catalogue_rows=1_000,
    known_fields_only=False,
    receive_seconds=60.0,
    deadline_seconds=60.0,
)
DYNAMIC: dict[str, tuple[str, ...]] = {
    "lr": ("size",), "fm": ("price", "tags"), "fnn": ("brand", "made"), "wide_deep": ("tags",),
    "deepfm": ("price", "size", "tags"), "ffm": ("price",), "opnn": ("tags",),
}  # fmt: skip
"""The dynamic fields of a second spec for a network."""


@dataclass(frozen=True)
class Served:
    """What a service has of a bundle."""

    spec: FeatureSpec
    encoder: Encoder
    engine: Engine
    split: SplitEngine | None


@cache
def vocabulary(spec: FeatureSpec) -> Vocabulary:
    rows = 40
    frame = {
        "user": [n % 8 for n in range(rows)],
        "likes": [WORDS[: n % 4] for n in range(rows)],
        "seen": [[0, 1][: n % 3] for n in range(rows)],
        "age": [float(n) for n in range(rows)],
        "item": [n % 10 for n in range(rows)],
        "brand": [WORDS[n % 4] for n in range(rows)],
        "tags": [WORDS[n % 3 :] for n in range(rows)],
        "price": [n / 4 for n in range(rows)],
        "size": [float(n) - 5 for n in range(rows)],
        "made": [n * 3_600 for n in range(rows)],
    }
    return learned(spec, pl.DataFrame(frame, strict=False))


def graph_rows(encoder: Encoder) -> Dataset:
    """Rows by which the ranges of an int8 graph are fixed."""
    drawn = np.random.default_rng(5)
    context = [
        {"user": n, "likes": WORDS[: n % 4], "seen": [*range(n % 5)], "age": n} for n in range(64)
    ]
    candidate = [
        {"item": int(drawn.integers(12)), "brand": WORDS[n % 4], "tags": WORDS[n % 3 :],
         "price": n / 8, "size": float(drawn.normal(10, 10)), "made": n * 4_000}
        for n in range(64)
    ]  # fmt: skip
    rows = [
        np.frombuffer(b"".join(map(side.row, values)), np.int32).reshape(64, -1)
        for side, values in ((encoder.context, context), (encoder.candidate, candidate))
    ]
    return Dataset.of_rows(rows[0], rows[1], encoder.shapes, np.zeros(64, np.uint8))


@pytest.fixture(scope="module", autouse=True)
def read_at_once() -> Iterator[None]:
    """Changes of a store are read without a pause, which each example would wait for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follower, "POLL_SECONDS", 0.01)
        yield


@cache
def served(network: str, precision: Precision, dynamic: tuple[str, ...]) -> Served:
    """Export a network of random weights over a spec with these dynamic fields."""
    fields = tuple(replace(field, dynamic=field.name in dynamic) for field in FIELDS)
    spec = FeatureSpec(label="click", fields=fields)
    words = vocabulary(spec)
    encoder, layout = Encoder(spec, words), words.layout
    config = TrainConfig(embedding_size=4, hidden=(16, 8), init_std=0.5)
    with TemporaryDirectory() as directory:
        _, graph = exported_below(
            trained(network, layout, config), layout, Path(directory) / "made"
        )
        engine = Engine(graph, layout, *encoder.shapes)
        if precision == "int8":
            quantised = graph.with_name("score.int8.onnx")
            write_int8(graph, quantised, engine, graph_rows(encoder), 3)
            graph = quantised
            engine = Engine(graph, layout, *encoder.shapes, precision=precision)
        if dynamic and network not in SPLIT_DYNAMIC:
            return Served(spec, encoder, engine, None)
        one, other = (graph.with_name(name) for name in SPLIT_GRAPHS[precision])
        parts = write_split(graph, network, layout, one, other)
        return Served(
            spec, encoder, engine, SplitEngine(engine, (one, other), parts, *encoder.shapes)
        )


@st.composite
def requests(draw: st.DrawFn, ids: list[int]) -> dict[str, Any]:
    """The candidates of a request that names items."""
    form = draw(st.sampled_from(["ids", "ids", "all", "prefilter"]))
    if form == "all":
        return {"all": True, "exclude": draw(st.lists(st.sampled_from(ids), max_size=3))}
    if form == "prefilter":
        return {"all": True, "prefilter": draw(st.integers(1, len(ids) + 1))}
    named = draw(st.lists(st.sampled_from([*ids, 777]), min_size=1, max_size=200))
    columns = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=4))
    few = st.integers(0, 3)
    choices = {name: draw(st.lists(VALUES[name], min_size=4, max_size=4)) for name in columns}
    own = {name: [values[draw(few)] for _ in named] for name, values in choices.items()}
    forms = [draw(st.sampled_from([each, str(each)])) for each in named]
    return {"ids": forms, "features": own} if own else {"ids": forms}


async def ranked(scorer: Scorer, context: Any, candidates: Any) -> FakeRequest:
    request = FakeRequest()
    body = json.dumps({"context": context, "candidates": candidates}).encode()
    await finish(scorer.rank(body, request))
    await until(lambda: request.answer is not None)
    return request


class Counting:
    """An engine that counts the rows that are scored from their indices."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.rows = 0

    def score(self, batch: Batch) -> Scores:
        self.rows += len(batch.candidate)
        return self._engine.score(batch)


@asynccontextmanager
async def serving(
    made: Served, items: dict[int, Any], changes: dict[int, Any]
) -> AsyncIterator[tuple[Scorer, dict[int, Any], Counting]]:
    """Follow a store of items that change; give the items that are there in the end, too."""
    now = {key: values for key, values in (items | changes).items() if not _goes(key, changes)}
    with TemporaryDirectory() as directory:
        path = Path(directory) / "store.db"
        store = SqliteStore(path, create=True)
        store.put(Item(key, values) for key, values in items.items())

        def open_parts() -> ItemParts | str:
            if made.split is None:
                return "no graphs"
            file = Path(directory) / f"{PREFIX}a-1.parts"
            return ItemParts(PartsFile(file, made.split.widths, 0, 1, 2**24), made.split)

        side = made.encoder.candidate
        follower = Follower(f"sqlite://{path}", made.spec, side, None, open_parts)
        await follower.fill()
        follower.start()
        store.put(Item(key, values) for key, values in changes.items())
        store.delete([key for key in items if _goes(key, changes)])
        catalogue = follower.catalogue
        keys = sorted(now)
        rows = [side.row(side.stored(now[key])) for key in keys]
        async with asyncio.timeout(60):
            await until(
                lambda: (
                    len(catalogue) == len(now)
                    and [row.tobytes() for row in catalogue.rows(catalogue.find(keys))] == rows
                )
            )
        counting = Counting(made.engine)
        scoring: Scoring = counting
        if catalogue.parts is not None:
            assert made.split is not None
            await catalogue.parts.built()
            scoring = PartScoring(counting, made.split, catalogue.parts.arrays)
        widths = [shape.width for shape in made.encoder.shapes]
        async with MicroBatcher(scoring, *widths, max_rows=64) as batcher:
            key = "sku", text_key(made.spec, "sku")
            yield Scorer("v", made.encoder, batcher, LIMITS, items=catalogue, item_key=key), now, (
                counting
            )  # fmt: skip
        await follower.close()
        store.close()


def _goes(key: int, changes: dict[int, Any]) -> bool:
    """Tell whether an item is deleted."""
    return key % 5 == 4 and key not in changes


async def compare_one(
    made: Served, scorer: Scorer, now: dict[int, Any], context: Any, candidates: Any
) -> None:
    if "prefilter" in candidates and (made.split is None or not made.split.has_first_cut):
        with pytest.raises(Invalid):
            await ranked(scorer, context, candidates)
        return
    by_id = await ranked(scorer, context, candidates)
    assert by_id.ids is not None
    assert by_id.listed is not None
    values = [dict(made.encoder.candidate.stored(now[int(str(each))])) for each in by_id.ids]
    for row, place in enumerate(by_id.listed.places or ()):
        values[row] |= {name: own[place] for name, own in candidates.get("features", {}).items()}
    known = [each for each in candidates.get("ids", ()) if int(each) in now]
    assert by_id.listed.places is None or len(values) == len(known)
    by_values = await ranked(scorer, context, [{"features": each} for each in values])
    assert isinstance(by_id.answer, Scores)
    assert isinstance(by_values.answer, Scores)
    away = np.abs(by_id.answer.logit - by_values.answer.logit)
    assert away.max(initial=0.0) <= TOLERANCE[made.engine.precision]


async def compare_instances(
    made: Served, scorer: Scorer, now: dict[int, Any], instances: list[dict[str, Any]]
) -> None:
    kept = [each for each in instances if each["sku"] in now]
    whole = [dict(made.encoder.candidate.stored(now[each["sku"]])) | each for each in kept]
    mine = await predicted(scorer, {"instances": instances, "stored": True})
    expected = await predicted(scorer, {"instances": whole})
    assert np.abs(mine.logit - expected.logit).max(initial=0.0) <= TOLERANCE[made.engine.precision]


async def predicted(scorer: Scorer, body: Any) -> Scores:
    request = FakeRequest()
    await finish(scorer.predict(json.dumps(body).encode(), request))
    await until(lambda: request.answer is not None)
    assert isinstance(request.answer, Scores)
    return request.answer


CASES = [*((network, ()) for network in NETWORKS), *DYNAMIC.items()]


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(
    ("network", "dynamic"), CASES, ids=["-".join([name, *fields]) for name, fields in CASES]
)
def test_an_answer_by_id_is_that_of_the_values(
    network: str, dynamic: tuple[str, ...], precision: Precision
) -> None:
    """Whatever is stored, changed, deleted, replaced by the request or left out of it."""
    made = served(network, precision, dynamic)

    @settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow])
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        items = data.draw(st.dictionaries(st.integers(0, 30), CANDIDATES, min_size=1))
        changes = data.draw(st.dictionaries(st.integers(0, 30), CANDIDATES, max_size=5))
        ids = sorted(items | changes)
        context = st.fixed_dictionaries({}, optional=CONTEXT)
        asked = data.draw(st.lists(st.tuples(context, requests(ids)), min_size=1, max_size=4))
        skus = st.fixed_dictionaries({"sku": st.sampled_from(ids)}, optional=CONTEXT | VALUES)
        instances = data.draw(st.lists(skus, max_size=20))

        async def compare() -> None:
            async with serving(made, items, changes) as (scorer, now, _):
                for each, candidates in asked:
                    await compare_one(made, scorer, now, each, candidates)
                await compare_instances(made, scorer, now, instances)

        asyncio.run(compare())

    holds()


@pytest.mark.anyio
async def test_rows_go_through_item_parts_where_their_stored_values_count() -> None:
    """Of ``/rank`` and ``/predict``: an equal or a dynamic value changes nothing."""
    made = served("deepfm", "float32", DYNAMIC["deepfm"])
    items = {number: {"item": number, "brand": "a", "price": 1} for number in range(4)}
    async with serving(made, items, {}) as (scorer, _, counting):
        for own, through_parts in (
            ({}, True), ({"price": 3, "tags": ["a"]}, True), ({"brand": "b"}, False),
        ):  # fmt: skip
            columns = {name: [value] * 4 for name, value in own.items()}
            await ranked(scorer, {"user": 1}, {"ids": [0, 1, 2, 3], "features": columns})
            assert counting.rows == (0 if through_parts else 4)
        counting.rows = 0
        instances: list[dict[str, Any]] = [
            {"sku": 1, "user": 1}, {"sku": "2", "item": "2", "size": 3}, {"sku": 3, "brand": None},
            {"sku": 4, "user": 1}, {"sku": 0, "item": 0, "brand": "a"},
        ]  # fmt: skip
        found = await predicted(scorer, {"instances": instances, "stored": True})
        assert (len(found.logit), counting.rows) == (4, 1)
