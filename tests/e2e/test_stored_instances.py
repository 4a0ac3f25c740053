"""``/predict`` with ``"stored": true``: what instances lack comes from profiles and items."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from app.store.sqlite import SqliteStore
from app.store.store import Item
from tests.conftest import PATIENT_MS, StartService
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, run_to_end, strict

pytestmark = pytest.mark.e2e
ENTRIES = 120
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def store(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Items and profiles, by numbers that are no field of the spec."""
    path = tmp_path_factory.mktemp("store") / "store.db"
    opened = SqliteStore(path, create=True)
    rows = list(enumerate(sample.rows[:ENTRIES]))
    opened.put(Item(n, {"sku": n, **candidate_of(row)}) for n, row in rows)
    opened.profiles.put(Item(str(n), context_of(row)) for n, row in rows)
    opened.close()
    return f"sqlite://{path}"


@pytest.fixture(scope="module")
def service(start_shared_service: StartService, store: str) -> Service:
    """A service that fills instances; a field that nobody knows is an error there."""
    return start_shared_service(
        store=store, item_key="sku", profile_key="visitor", unknown_fields="error",
        redis_timeout_ms=PATIENT_MS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(start_shared_service: StartService) -> Service:
    """A service that has no store."""
    return start_shared_service()


def predict(service: Service, body: dict[str, Any], status: int = 200) -> Any:
    answer = service.client.post("/predict", json=body)
    assert answer.status_code == status, answer.text
    return strict(answer.content)


def test_filled_instances_score_as_whole_ones(
    service: Service, plain: Service, sample: Sample
) -> None:
    """Over random overrides, nulls and forms of ids, few rows and many."""
    drawn = random.Random(11)
    own: list[dict[str, Any]] = [
        {}, {"price": 3}, {"price": None, "tags": ["film", "new"]}, {"country": None},
        {"age": 20, "quality": 0.3}, {"item_id": 5, "user_id": 12345},
    ]  # fmt: skip
    for count in (1, 2, 7, 9, 300):
        sent, whole = [], []
        for _ in range(count):
            item, user = drawn.randrange(ENTRIES), drawn.randrange(ENTRIES)
            given = {"placement": "side", **drawn.choice(own)}
            keys = {"sku": drawn.choice([item, str(item), float(item)]),
                    "visitor": drawn.choice([user, str(user)])}  # fmt: skip
            sent.append({**keys, **given})
            whole.append(
                {**context_of(sample.rows[user]), **candidate_of(sample.rows[item]), **given}
            )
        mine = predict(service, {"instances": sent, "stored": True})
        expected = predict(plain, {"instances": whole})
        assert mine["predictions"] == pytest.approx(expected["predictions"], rel=TOLERANCE)
        assert mine.keys() == expected.keys()
    path = "/v1/models/any:predict"
    answer = service.client.post(path, json={"instances": sent, "stored": True}).json()
    assert answer["predictions"] == pytest.approx(mine["predictions"], rel=TOLERANCE)
    assert predict(service, {"instances": [], "stored": True})["predictions"] == []


def test_an_unknown_item_has_no_score(service: Service) -> None:
    """Its place is null and its id is named; the others score, and an unknown user does too."""
    rows = [{"sku": each, "visitor": 10**9, "placement": "top"} for each in (1, 10**7, "x", 2)]
    for words in ({}, {"on_unknown": "omit"}, {"on_unknown": "last"}):
        found = predict(service, {"instances": rows, "stored": True, **words})
        first, second, third, fourth = found["predictions"]
        assert (second, third) == (None, None)
        assert 0 < first < 1
        assert 0 < fourth < 1
        assert found["unknown"] == {"total": 2, "ids": [10**7, "x"]}
    alone = predict(service, {"instances": rows[:2], "stored": True})["predictions"]
    assert alone == [pytest.approx(first, rel=TOLERANCE), None]
    none = predict(service, {"instances": rows[1:3], "stored": True})
    assert none["predictions"] == [None, None]
    refused = predict(service, {"instances": rows, "stored": True, "on_unknown": "error"}, 422)
    assert refused["error"]["details"] == [
        {"path": "instances[1].sku", "problem": "unknown item"},
        {"path": "instances[2].sku", "problem": "unknown item"},
    ]


@pytest.mark.parametrize(
    ("instance", "path", "problem"),
    [
        ({}, "instances[1].sku", "expected the id of an item"),
        ({"sku": None}, "instances[1].sku", "expected the id of an item"),
        ({"sku": 1.5}, "instances[1].sku", "expected the id of an item"),
        ({"sku": True}, "instances[1].sku", "expected the id of an item"),
        ({"sku": 1, "price": "x"}, "instances[1].price", "expected a number, got text"),
        ({"sku": 1, "tags": ["a", None]}, "instances[1].tags[1]", "null inside a list"),
        ({"sku": 1, "age": "x"}, "instances[1].age", "expected a number, got text"),
        ({"sku": 1, "prize": 3}, "instances[1].prize", "unknown field"),
    ],
)
def test_a_wrong_instance_is_named(
    service: Service, instance: dict[str, Any], path: str, problem: str
) -> None:
    """By its place in the request, and no other error is told."""
    rows = [{"sku": 1, "placement": "top"}, {"placement": "top", **instance}]
    error = predict(service, {"instances": rows, "stored": True}, 422)["error"]
    (detail,) = error["details"]
    assert detail["path"] == path
    assert problem in detail["problem"]


def test_only_those_who_ask_get_stored_values(
    service: Service, plain: Service, start_shared_service: StartService, store: str
) -> None:
    """Without ``stored`` a request means what it always meant; without a store it is refused."""
    row = {"user_id": 5, "item_id": 3, "placement": "top"}
    expected = predict(plain, {"instances": [row]})["predictions"]
    assert predict(service, {"instances": [row], "stored": False})["predictions"] == expected
    error = predict(plain, {"instances": [row], "stored": True}, 422)["error"]
    assert error["details"][0]["path"] == "stored"
    assert "CTR_ITEM_KEY" in error["details"][0]["problem"]
    assert predict(plain, {"instances": [row], "stored": 1}, 422)["error"]["code"] == "invalid"
    of_users = start_shared_service(store=store, profile_key="user_id")
    known = {**row, "user_id": 1}
    whole = predict(of_users, {"instances": [known] * 9, "stored": True})["predictions"]
    assert len(whole) == 9
    without = predict(of_users, {"instances": [known] * 9})["predictions"]
    assert whole != pytest.approx(without, rel=TOLERANCE)


def test_the_document_lets_out_what_is_stored(service: Service, plain: Service) -> None:
    """Keys are members of contexts and instances; what is required may come from the store."""

    def schemas(each: Service) -> Any:
        return each.client.get("/openapi.json").json()["components"]["schemas"]

    mine, without = schemas(service), schemas(plain)
    assert without["Context"]["required"] == without["Instance"]["required"] == ["placement"]
    assert "required" not in mine["Context"] | mine["Instance"]
    assert mine["Instance"]["properties"].keys() - without["Instance"]["properties"].keys() == {
        "sku", "visitor",
    }  # fmt: skip
    assert "visitor" in mine["Context"]["properties"]
    assert "stored" in mine["PredictRequest"]["properties"]
    assert "stored" not in without["PredictRequest"]["properties"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"item_key": "sku"}, "setting item_key: needs the setting store"),
        ({"item_key": "user_id", "store": None}, "'user_id' is a context field"),
    ],
)
def test_a_wrong_setting_is_told_at_start(
    tiny_bundle: Path, store: str, settings: dict[str, Any], problem: str
) -> None:
    """By its name."""
    if "store" in settings:
        settings = {**settings, "store": store}
    ended = run_to_end(tiny_bundle, **settings)
    assert ended.returncode != 0
    assert problem in ended.stdout + ended.stderr
