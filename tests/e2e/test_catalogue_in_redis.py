"""Two services follow one catalogue in Redis."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.store.opening import open_store
from app.store.store import Item
from tests.conftest import StartService
from tests.support.redis_server import RedisServer
from tests.support.samples import Sample, context_of
from tests.support.serving import Service, free_port, strict, wait_until

pytestmark = pytest.mark.e2e
KEY = "0123456789abcdef" * 4


def ranked(service: Service, sample: Sample) -> dict[Any, float]:
    """The score of each item of the catalogue."""
    body = {"context": context_of(sample.rows[0]), "candidates": {"all": True}}
    answer = service.client.post("/rank", json=body)
    assert answer.status_code == 200, answer.text
    return {each["id"]: each["score"] for each in strict(answer.content)["ranking"]}


def problem(service: Service) -> str | None:
    """The problem of its catalogue; the service is ready with it and without."""
    ready = service.client.get("/ready")
    assert ready.status_code == 200
    told = ready.json()
    assert (told["degraded"] == ["catalogue"]) == (told["catalogue"]["problem"] is not None)
    found: str | None = told["catalogue"]["problem"]
    return found


def number(service: Service) -> float:
    """The number of the last change that it uses."""
    return service.metrics()["ctr_catalogue_change_number"]


def behind(service: Service) -> float:
    """Seconds since it had all changes."""
    return service.metrics()["ctr_catalogue_behind_seconds"]


def test_a_change_reaches_every_service(
    start_service: StartService, valkey: RedisServer, sample: Sample, tmp_path: Path
) -> None:
    """Through the admin port of one; while Redis is away both serve what they have."""
    open_store(valkey.url, create=True).close()
    keys = tmp_path / "keys"
    keys.write_text(hashlib.sha256(KEY.encode()).hexdigest())
    port = free_port()
    first = start_service(store=valkey.url, admin_port=port, admin_key_file=keys)
    second = start_service(store=valkey.url)
    assert ranked(first, sample) == ranked(second, sample) == {}
    lines = [{"id": n, "features": {"price": n}} for n in range(20)]
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}/admin", timeout=60.0, trust_env=False,
        headers={"authorization": f"Bearer {KEY}"},
    ) as admin:  # fmt: skip
        stored = admin.put("/items", content="\n".join(map(json.dumps, lines)))
        assert stored.json() == {"stored": 20}
        assert admin.delete("/items/7").json() == {"deleted": 1}
        wait_until(lambda: len(ranked(first, sample)) == 19, "the first service has the items")
        wait_until(lambda: len(ranked(second, sample)) == 19, "the second service has them")
        assert ranked(first, sample) == pytest.approx(ranked(second, sample), rel=1e-4)
        wait_until(lambda: number(first) == number(second) == 21, "both have all 21 changes")
        with closing(open_store(valkey.url)) as store:
            items = list(store.each())
        valkey.stop()
        wait_until(lambda: problem(second) == "Redis cannot be reached", "the second tells")
        before = behind(second)
        wait_until(lambda: behind(second) > before + 0.2, "the metric grows")
        assert admin.get("/items/3").status_code == 503
        assert admin.put("/items", content=json.dumps(lines[0])).status_code == 503
        valkey.start()
        both = (first, second)
        wait_until(lambda: all("was emptied" in str(problem(each)) for each in both), "both tell")
        assert [len(ranked(each, sample)) for each in both] == [19, 19]
    with closing(open_store(valkey.url, create=True)) as store:
        store.put(each for each in items if each.id != 3)
        store.declare_whole()
    wait_until(lambda: not any(problem(each) for each in both), "the store is followed again")
    wait_until(lambda: all(len(ranked(each, sample)) == 18 for each in both), "and was read")


@pytest.mark.parametrize("fault", ["killed", "silent", "emptied"])
def test_profiles_in_redis_are_waited_for_in_bounds(
    start_service: StartService, valkey: RedisServer, sample: Sample, fault: str
) -> None:
    """Without Redis a user that is not remembered is scored without values, and the answer says
    so; a remembered one keeps them.
    """
    known = {"age": 30, "country": "us"}
    with closing(open_store(valkey.url, create=True)) as store:
        store.profiles.put([Item(1, known), Item(2, known)])
    service = start_service(store=valkey.url, profile_key="user_id", redis_timeout_ms=2_000)
    candidates = [{"features": {"item_id": 5, "price": 3}}]

    def ranked_for(**context: Any) -> Any:
        body = {"context": {"placement": "top", **context}, "candidates": candidates}
        answer = service.client.post("/rank", json=body)
        assert answer.status_code == 200, answer.text
        return strict(answer.content)

    def score(answer: Any) -> float:
        return float(answer["ranking"][0]["score"])

    whole = score(ranked_for(user_id=1, **known))
    by_profile = ranked_for(user_id=1)
    assert "degraded" not in by_profile
    assert score(by_profile) == pytest.approx(whole, rel=1e-4)
    {"killed": valkey.stop, "silent": valkey.freeze,
     "emptied": lambda: valkey.command("FLUSHALL")}[fault]()  # fmt: skip
    without = ranked_for(user_id=2)
    assert without["degraded"] == ["profiles"]
    assert score(without) == pytest.approx(
        score(ranked_for(user_id=2, age=None, country=None)), rel=1e-4
    )
    remembered = ranked_for(user_id=1)
    assert "degraded" not in remembered
    assert score(remembered) == pytest.approx(whole, rel=1e-4)
    assert "profiles" in service.client.get("/ready").json()["degraded"]
    if fault == "killed":
        valkey.start()
    if fault == "silent":
        valkey.thaw()
    else:
        with closing(open_store(valkey.url, create=True)) as store:
            store.profiles.put([Item(2, known)])

    def answers_again() -> bool:
        return "degraded" not in ranked_for(user_id=2)

    wait_until(answers_again, "the store answers again", 30.0)
    expected = score(ranked_for(user_id=2, **known))
    assert score(ranked_for(user_id=2)) == pytest.approx(expected, rel=1e-4)
