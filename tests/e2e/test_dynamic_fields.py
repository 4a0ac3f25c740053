"""Dynamic fields: their values come with a request, and stored ones are never used."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.e2e.test_catalogue import KEY, items_command, rank, scores
from tests.support.samples import Sample, candidate_of, context_of, train_tiny, with_dynamic_fields
from tests.support.serving import Service, free_port, strict

pytestmark = pytest.mark.e2e
ITEMS = 120
DYNAMIC = ("tags", "price")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def bundle(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a dynamic list and a dynamic number."""
    directory = tmp_path_factory.mktemp("dynamic")
    spec = directory / "dynamic.toml"
    spec.write_text(with_dynamic_fields(), encoding="utf-8")
    return train_tiny(replace(sample, spec=spec), directory / "bundles")


@pytest.fixture(scope="module")
def items(sample: Sample) -> dict[int, dict[str, Any]]:
    return {number: candidate_of(row) for number, row in enumerate(sample.rows[:ITEMS])}


@pytest.fixture(scope="module")
def service(
    items: dict[int, dict[str, Any]],
    bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
    start_shared_service: StartService,
) -> Service:
    """A service whose store has values of dynamic fields too, which ``put`` tells."""
    lines = tmp_path_factory.mktemp("store") / "items.jsonl"
    lines.write_text("".join(json.dumps({"sku": n, **v}) + "\n" for n, v in items.items()))
    url = f"sqlite://{lines.with_name('store.db')}"
    done = items_command("put", lines, "--id", "sku", "--bundle", bundle, "--store", url)
    assert done.returncode == 0, done.stderr
    count = sum("price" in values for values in items.values())
    told = f"{count} lines have a value of 'price', which is not used: the field is dynamic"
    assert told in done.stderr
    return start_shared_service(bundle, store=url, item_key="sku", profile_key="nobody")


def as_served(values: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The values that count: stored ones of other fields, and the request's own."""
    return {n: v for n, v in values.items() if n not in DYNAMIC} | own


def test_stored_values_do_not_count_and_those_of_a_request_do(
    service: Service, items: dict[int, dict[str, Any]], sample: Sample
) -> None:
    """By id, of the whole catalogue and by its first cut; item parts are held all the same."""
    told = service.client.get("/ready").json()["catalogue"]
    assert (told["item_parts"], told["item_parts_problem"]) == (ITEMS, None)
    drawn = random.Random(5)
    choices: dict[str, list[Any]] = {
        "price": [None, 0.5, 7, 1e6],
        "tags": [None, [], ["film", "unheard of"], ["news"]],
        "quality": [None, 0.1, 0.9],
    }
    for turn in range(24):
        context = context_of(sample.rows[turn])
        ids = drawn.choices(range(ITEMS), k=drawn.choice([1, 2, 70, 300]))
        names = drawn.sample(sorted(choices), drawn.randrange(4))
        own = {name: [drawn.choice(choices[name]) for _ in ids] for name in names}
        listed = {"ids": ids, "features": own} if own else {"ids": ids}
        sent = [
            {"id": n, "features": as_served(items[n], {name: own[name][row] for name in names})}
            for row, n in enumerate(ids)
        ]
        by_id = rank(service, {"context": context, "candidates": listed})
        by_values = rank(service, {"context": context, "candidates": sent})
        expected = {each["index"]: each["score"] for each in by_values["ranking"]}
        found = {each["index"]: each["score"] for each in by_id["ranking"]}
        assert found == pytest.approx(expected, rel=TOLERANCE)
    sent = [{"id": n, "features": as_served(values, {})} for n, values in items.items()]
    by_values = scores(rank(service, {"context": context, "candidates": sent}))
    by_all = scores(rank(service, {"context": context, "candidates": {"all": True}}))
    assert by_all == pytest.approx(by_values, rel=TOLERANCE)
    cut = scores(rank(service, {"context": context, "candidates": {"all": True, "prefilter": 60}}))
    assert cut == pytest.approx({number: by_values[number] for number in cut}, rel=TOLERANCE)


def test_instances_have_no_stored_value_of_a_dynamic_field(
    service: Service, items: dict[int, dict[str, Any]], sample: Sample
) -> None:
    """Only their own."""
    context = context_of(sample.rows[0])
    sent = [{"sku": 3, **context}, {"sku": 3, "price": 7, **context}]
    whole = [
        {**as_served(items[3], {}), **context}, {**as_served(items[3], {"price": 7}), **context},
    ]  # fmt: skip
    answers = [
        service.client.post("/predict", json=body)
        for body in ({"instances": sent, "stored": True}, {"instances": whole})
    ]
    mine, expected = (strict(each.content)["predictions"] for each in answers)
    assert mine == pytest.approx(expected, rel=TOLERANCE)


def test_a_dynamic_field_cannot_be_filtered_by(service: Service) -> None:
    """No item has a value."""
    listed = {"all": True, "where": {"price": {"min": 1}}}
    error = rank(service, {"context": {"placement": "side"}, "candidates": listed}, 422)["error"]
    assert error["details"] == [
        {
            "path": "candidates.where.price",
            "problem": "a dynamic field has no stored values to filter by",
        }
    ]


def test_the_admin_port_names_what_is_not_used(
    start_service: StartService, bundle: Path, tmp_path: Path
) -> None:
    """What it has stored of a dynamic field has no index, whatever it is."""
    url, admin_key = f"sqlite://{tmp_path / 'store.db'}", tmp_path / "admin.key"
    assert items_command("create", "--store", url).returncode == 0
    admin_key.write_text(hashlib.sha256(KEY.encode()).hexdigest())
    admin_key.chmod(0o600)
    port = free_port()
    service = start_service(bundle, store=url, admin_port=port, admin_key_file=admin_key)
    where = f"http://127.0.0.1:{port}/admin/items"
    headers = {"authorization": f"Bearer {KEY}"}
    line = json.dumps({"id": 1, "features": {"item_id": 5, "price": "of the hour", "tags": []}})
    put = service.client.put(where, content=line, headers=headers)
    assert put.json() == {"stored": 1, "not_used": ["price", "tags"]}
    found = service.client.get(f"{where}/1", headers=headers).json()
    assert found["features"]["price"] == "of the hour"
    assert "refused" not in found
    plain = json.dumps({"id": 2, "features": {"item_id": 5}})
    assert service.client.put(where, content=plain, headers=headers).json() == {"stored": 1}
    other = service.client.get(f"{where}/2", headers=headers).json()
    assert found["indices"] == other["indices"]
