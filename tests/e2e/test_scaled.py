"""Numbers that are factors of their embeddings score the same from training to the answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.bundle import Bundle
from app.features.graph_inputs import Batch
from model.config import TrainConfig
from model.data.input_files import InputFiles
from model.data.prepare import prepare
from model.quality.offline_scoring import open_engine
from model.score_files import Offline
from tests.conftest import StartService
from tests.drills.parity import Check
from tests.support.days import Days
from tests.support.networks import long_but
from tests.support.redis_server import RedisServer
from tests.support.samples import Sample, candidate_of, context_of, with_scaled_numbers
from tests.support.serving import Service
from tests.support.trained import trained
from tests.support.vocabularies import publish_now

pytestmark = pytest.mark.e2e
QUICK = TrainConfig(
    embedding_size=4, hidden=(16,), batch_size=256, epochs=3, learning_rate=0.02, threads=1
)
ROWS = 200
COMPANY = 1e-6
"""Published bound of a score's difference between a row alone and the same row in a batch."""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = tmp_path_factory.mktemp("scaled") / "scaled.toml"
    spec.write_text(with_scaled_numbers(), encoding="utf-8")
    return spec


@pytest.fixture(scope="module")
def bundle(spec: Path, sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepFM, in int8 too, whatever that loses over the few rows of validation."""
    found = prepare(spec, InputFiles([sample.data]))
    layout = found.vocabulary.layout
    assert (layout.context_values, layout.candidate_values) == (1, 1)
    return trained(spec, sample.data, QUICK, tmp_path_factory.mktemp("scaled"), int8=True)


@pytest.fixture(scope="module")
def service(bundle: Path, start_shared_service: StartService) -> Service:
    return start_shared_service(bundle, unknown_fields="error")


@pytest.mark.parametrize("name", long_but("lr", "fm", "deepfm"))
def test_a_network_scores_the_same_offline_and_online(
    name: str, tmp_path: Path, start_service: StartService
) -> None:
    """Golden examples reproduce; rows agree alone, in batches, in rows and columns of /rank."""
    days = Days.make(tmp_path)
    bundle = days.first_bundle(name, tmp_path / "bundles")
    assert Bundle.open(bundle).vocabulary.layout.context_values == 1
    assert Bundle.open(bundle).vocabulary.layout.candidate_values == 1
    service = start_service(bundle)
    offline = Offline.open(bundle)
    figures = Check(offline, [days.first], ROWS, service.client).run()
    assert max(figures.values()) <= offline.engine.tolerance, figures
    assert service.stop() == 0


def test_the_price_is_learnt(spec: Path, sample: Sample, tmp_path: Path) -> None:
    """Its weight tells the direction: what costs more is clicked less in these data."""
    offline = Offline.open(trained(spec, sample.data, replace(QUICK, network="lr"), tmp_path))
    row = offline.encoder.candidate.row
    packed = b"".join(row({"price": price}) for price in (0.5, 4.0, 20.0))
    batch = np.frombuffer(packed, np.int32).reshape(3, -1)
    context = np.frombuffer(offline.encoder.context.row({"placement": "top"}), np.int32)
    logit = offline.engine.score(
        Batch(context.reshape(1, -1), batch, np.zeros(3, np.int32))
    ).logit.tolist()
    assert logit[0] > logit[1] + 0.02 > logit[2] + 0.04


def test_numbers_move_the_score_and_missing_is_a_value_of_its_own(
    service: Service, sample: Sample
) -> None:
    """Equal float32 numbers score alike, others do not; far out, all count as the bound."""
    row = {**sample.rows[0], "age": 30, "price": 2.5}
    others: list[dict[str, Any]] = [
        {"price": 2}, {"price": 2.0}, {"price": 3}, {"price": None}, {"price": -1e30},
        {"price": -3e38}, {"age": 31}, {"age": 2.5 + 1e-9, "price": 2.5 + 1e-9}, {"age": 2.5},
    ]  # fmt: skip
    base, *found = service.predict([row, *({**row, **other} for other in others)])
    assert found[0] == found[1]
    assert found[4] == found[5]
    assert found[7] == found[8]
    assert len({base, *found}) == 1 + len(found) - 3


@pytest.mark.parametrize("value", ["2.5", True, [2.5], 1e39, {"x": 1}])
def test_what_is_no_number_is_named(service: Service, sample: Sample, value: Any) -> None:
    """Each way of asking answers 422 and says which value of which field is wrong."""
    row = {**sample.rows[0], "price": value}
    candidate, context = candidate_of(row), context_of({**sample.rows[0], "age": value})
    columns = {name: [each] for name, each in candidate.items()}
    asked: list[tuple[str, dict[str, Any], str]] = [
        ("/predict", {"instances": [sample.rows[1], row]}, "instances[1].price"),
        ("/rank", {"context": context_of(row), "candidates": [{"features": candidate}]},
         "candidates[0].features.price"),
        ("/rank", {"context": context_of(row), "candidates": {"features": columns}},
         "candidates.features.price[0]"),
        ("/rank", {"context": context, "candidates": []}, "context.age"),
    ]  # fmt: skip
    for path, body, where in asked:
        answer = service.post(path, body)
        assert answer.status_code == 422, answer.text
        assert [each["path"] for each in answer.json()["error"]["details"]] == [where]


def test_through_redis_the_scores_are_the_same(
    valkey: RedisServer,
    bundle: Path,
    service: Service,
    sample: Sample,
    start_service: StartService,
) -> None:
    """Numbers, negative ones too, pass by the look-ups that Redis answers."""
    publish_now(valkey.url, bundle)
    remote = start_service(bundle, redis_url=valkey.url, vocabulary_cache=10)
    assert remote.client.get("/ready").json()["degraded"] == []
    rows = [
        {**row, "price": -number} if number % 3 == 0 else row
        for number, row in enumerate(sample.rows[:ROWS])
    ]
    assert remote.predict(rows) == pytest.approx(service.predict(rows), abs=COMPANY)
    alone = [score for row in rows[:20] for score in remote.predict([row])]
    assert alone == pytest.approx(service.predict(rows[:20]), abs=COMPANY)
    body = {
        "context": context_of(rows[0]),
        "candidates": [{"features": candidate_of(row)} for row in rows],
    }
    found, expected = (each.post("/rank", body).json()["ranking"] for each in (remote, service))
    assert [each["index"] for each in found] == [each["index"] for each in expected]
    assert remote.stop() == 0


def test_int8_has_its_numbers_too(
    bundle: Path, sample: Sample, start_service: StartService
) -> None:
    """The int8 graph reproduces its golden requests; it scores online as it does offline."""
    (told,) = Bundle.open(bundle).manifest.training["int8"]
    assert told["accepted"] is True
    quick = start_service(bundle, precision="int8")
    assert quick.client.get("/ready").json()["precision"] == "int8"
    offline = Offline.open(bundle)
    check = Check(offline, [sample.data], ROWS, quick.client)
    every = np.arange(ROWS)
    float32 = check.predict(every)
    check.engine = open_engine(
        offline.bundle.graph_in("int8"), offline.encoder, offline.bundle.vocabulary.layout,
        "int8",
    )  # fmt: skip
    quantised = check.offline(every, every)
    furthest = np.abs(quantised - check.expected).max()
    check.expected = quantised
    assert check.predict(every) <= check.engine.tolerance
    assert 0 < float32 <= furthest + check.engine.tolerance
    assert quick.stop() == 0
