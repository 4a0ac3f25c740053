"""Past items that are weighed by the candidate: from the file to the answer, by every way."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from app.bundle.bundle import Bundle
from app.store.sqlite import SqliteStore
from app.store.store import Item
from model.config import TrainConfig
from model.quality.offline_scoring import open_engine
from model.score_files import Offline
from tests.conftest import StartService
from tests.drills.parity import Check
from tests.support.redis_server import RedisServer
from tests.support.serving import Service
from tests.support.trained import trained
from tests.support.vocabularies import publish_now

pytestmark = pytest.mark.e2e
ROWS, ITEMS, PLACES = 3_000, 30, 6
SPEC = f"""
label = "click"
timestamp = "time"
[[fields]]
name = "country"
kind = "categorical"
side = "context"
[[fields]]
name = "history"
kind = "multi_categorical"
side = "context"
attends = "item"
max_values = {PLACES}
[[fields]]
name = "item"
kind = "categorical"
side = "candidate"
min_count = 1
[[fields]]
name = "brand"
kind = "categorical"
side = "candidate"
"""
CONFIG = TrainConfig(
    network="din", embedding_size=8, hidden=(16,), batch_size=256, epochs=4, learning_rate=0.02,
    threads=1,
)  # fmt: skip
COMPANY = 1e-6


def write_log(path: Path) -> list[dict[str, Any]]:
    """Users watch items of one of five kinds, and click those; some have no history yet."""
    draw = random.Random(1)
    rows = []
    for second in range(ROWS):
        kind, item = draw.randrange(5), draw.randrange(ITEMS)
        past = [5 * draw.randrange(ITEMS // 5) + kind for _ in range(draw.randrange(PLACES + 3))]
        chance = 0.8 if past and item % 5 == kind else 0.15
        rows.append({
            "click": int(draw.random() < chance), "time": second,
            "country": draw.choice("abc"), "history": [f"i{each}" for each in past],
            "item": f"i{item}", "brand": f"b{item % 7}",
        })  # fmt: skip
    pl.DataFrame(rows).with_columns(pl.col("history").list.join("|")).write_csv(path)
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict[str, Any]]]:
    """A DIN in float32 and int8, its data as a file and as rows."""
    home = tmp_path_factory.mktemp("histories")
    spec, data = home / "histories.toml", home / "log.csv"
    spec.write_text(SPEC)
    rows = write_log(data)
    return trained(spec, data, CONFIG, home / "bundles", int8=True), data, rows


@pytest.fixture(scope="module")
def service(
    made: tuple[Path, Path, list[dict[str, Any]]],
    start_shared_service: StartService,
    tmp_path_factory: pytest.TempPathFactory,
) -> Service:
    """A service that has all items in its catalogue and explains scores."""
    path = tmp_path_factory.mktemp("store") / "store.db"
    store = SqliteStore(path, create=True)
    store.put(Item(n, {"item": f"i{n}", "brand": f"b{n % 7}"}) for n in range(ITEMS))
    store.close()
    return start_shared_service(
        made[0], unknown_fields="error", explain="on", store=f"sqlite://{path}"
    )


def context_of(row: dict[str, Any]) -> dict[str, Any]:
    return {"country": row["country"], "history": row["history"]}


def test_what_is_served_is_what_was_trained(
    made: tuple[Path, Path, list[dict[str, Any]]], service: Service
) -> None:
    """Rows agree alone and in batches, in rows and columns; and the histories were learnt from."""
    bundle, data, _ = made
    offline = Offline.open(bundle)
    figures = Check(offline, [data], 200, service.client).run()
    assert max(figures.values()) <= offline.engine.tolerance, figures
    assert Bundle.open(bundle).manifest.metrics["test"]["auc"] > 0.65


def test_a_ranking_by_id_is_that_of_the_values(
    made: tuple[Path, Path, list[dict[str, Any]]], service: Service
) -> None:
    """From item parts and from values, in one order; items like the past ones lead."""
    found = by_chance = 0.0
    for row in made[2][:40]:
        body = {"context": context_of(row)}
        by_id = service.rank(**body, candidates={"ids": [*range(ITEMS)]})
        values = [{"features": {"item": f"i{n}", "brand": f"b{n % 7}"}} for n in range(ITEMS)]
        by_values = service.rank(**body, candidates=values)
        scores = {each["index"]: each["score"] for each in by_values}
        for each in by_id:
            assert each["score"] == pytest.approx(scores[each["index"]], abs=COMPANY)
        if row["history"]:
            kind = int(row["history"][0][1:]) % 5
            found += sum(each["index"] % 5 == kind for each in by_id[: ITEMS // 5])
            by_chance += ITEMS / 5 / 5
    assert found > 1.5 * by_chance


def test_histories_that_mean_the_same(
    made: tuple[Path, Path, list[dict[str, Any]]], service: Service
) -> None:
    """No history, an empty one and null are one thing; unknown items are OOV; places are bounded;
    the order of events does not matter.
    """
    row = {"country": "a", "item": "i3", "brand": "b3"}
    long = [f"i{n}" for n in range(PLACES)]
    histories: list[Any] = [
        None, [], ["i3"], ["never"], ["unheard of"], ["i3", "i8"], ["i8", "i3"], long,
        [*long, "i29", "i28"],
    ]  # fmt: skip
    absent, *found = service.predict([row, *({**row, "history": each} for each in histories)])
    assert found[0] == found[1] == absent
    assert found[2] != absent
    assert found[3] == found[4] != absent
    assert found[5] == pytest.approx(found[6], abs=COMPANY)
    assert found[7] == found[8]
    assert len(set(found)) >= 5


@pytest.mark.parametrize("value", ["i3", {"i3": 1}, 7, ["i3", None], ["i3", 1.5], ["i3", ["i4"]]])
def test_a_bad_history_is_named(service: Service, value: Any) -> None:
    """422 with the place, whatever is wrong."""
    row = {"country": "a", "item": "i3", "history": value}
    answer = service.post("/predict", {"instances": [row]})
    assert answer.status_code == 422, answer.text
    (problem,) = answer.json()["error"]["details"]
    assert problem["path"].startswith("instances[0].history")


def test_it_is_explained(service: Service) -> None:
    """The history has a Shapley value like any field, and they add up."""
    body = {
        "context": {"country": "a", "history": ["i3", "i8", "i13"]},
        "candidate": {"item": "i18", "brand": "b4"},
    }
    for baseline in ("mean", "missing"):
        answer = service.post("/explain", {**body, "baseline": baseline})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        values = told["shapley"]
        assert set(values) == {"country", "history", "item", "brand"}
        total = told["baseline_logit"] + sum(values.values())
        assert total == pytest.approx(told["logit"], abs=1e-4)
        assert values["history"] != 0


def test_through_redis_the_scores_are_the_same(
    valkey: RedisServer,
    made: tuple[Path, Path, list[dict[str, Any]]],
    service: Service,
    start_service: StartService,
) -> None:
    """Past items are looked up as items are, in the same keys, with room for few."""
    bundle, _, rows = made
    publish_now(valkey.url, bundle)
    remote = start_service(bundle, redis_url=valkey.url, vocabulary_cache=8)
    assert remote.client.get("/ready").json()["degraded"] == []
    asked = [
        {**{name: row[name] for name in ("country", "history", "item", "brand")}}
        for row in rows[:200]
    ]
    asked += [{**row, "history": [*row["history"][:2], "unheard of"]} for row in asked[:50]]
    assert remote.predict(asked) == pytest.approx(service.predict(asked), abs=COMPANY)
    alone = [score for row in asked[:20] for score in remote.predict([row])]
    assert alone == pytest.approx(service.predict(asked[:20]), abs=COMPANY)
    assert remote.stop() == 0


def test_int8_serves_too(
    made: tuple[Path, Path, list[dict[str, Any]]], start_service: StartService
) -> None:
    """The int8 graph reproduces its golden requests, and scores online as it does offline."""
    bundle, data, _ = made
    quick = start_service(bundle, precision="int8")
    assert quick.client.get("/ready").json()["precision"] == "int8"
    offline = Offline.open(bundle)
    check = Check(offline, [data], 100, quick.client)
    every = np.arange(100)
    layout = offline.bundle.vocabulary.layout
    graph = offline.bundle.graph_in("int8")
    check.engine = open_engine(graph, offline.encoder, layout, "int8")
    check.expected = check.offline(every, every)
    assert check.predict(every) <= check.engine.tolerance
    assert quick.stop() == 0
