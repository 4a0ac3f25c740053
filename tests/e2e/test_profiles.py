"""Profiles: what a store knows of a user need not be in the request."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.store.sqlite import SqliteStore
from app.store.store import Item
from tests.conftest import PATIENT_MS, StartService
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, free_port, run_to_end, strict, wait_until
from tests.support.starting import run

pytestmark = pytest.mark.e2e
KEY = "0123456789abcdef" * 4
USERS = 60
TOLERANCE = 1e-4
OF_REQUEST = ("time", "placement")
"""Context fields that no profile has: they are those of a moment."""


def profile_of(row: dict[str, Any]) -> dict[str, Any]:
    """What is stored of the user of a row."""
    stored = context_of(row)
    return {name: value for name, value in stored.items() if name not in (*OF_REQUEST, "user_id")}


@pytest.fixture(scope="module")
def profiles(sample: Sample) -> dict[int, dict[str, Any]]:
    """Values by user."""
    return {number: profile_of(row) for number, row in enumerate(sample.rows[:USERS])}


@pytest.fixture(scope="module")
def path(profiles: dict[int, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with profiles, and an item."""
    path = tmp_path_factory.mktemp("store") / "store.db"
    store = SqliteStore(path, create=True)
    store.profiles.put(Item(*each) for each in profiles.items())
    store.put([Item(1, {"price": 2.5})])
    store.close()
    return path


@pytest.fixture(scope="module")
def service(start_shared_service: StartService, path: Path) -> Service:
    """A service over the store, which no test changes."""
    return start_shared_service(
        store=f"sqlite://{path}", profile_key="user_id", redis_timeout_ms=PATIENT_MS
    )


def rank(service: Service, context: dict[str, Any], candidates: Any) -> Any:
    body = {"context": context, "candidates": candidates}
    answer = service.client.post("/rank", json=body)
    assert answer.status_code == 200, answer.text
    return strict(answer.content)


def logged(service: Service, outcome: str) -> float:
    return service.metrics()[f'ctr_profile_lookups_total{{outcome="{outcome}"}}']


def test_a_ranking_with_a_profile_is_the_one_with_its_values(
    service: Service, profiles: dict[int, dict[str, Any]], sample: Sample
) -> None:
    """The request's own values win, a null too; rows, columns, ids and all take profiles."""
    drawn = random.Random(5)
    lists: list[Any] = [
        [{"features": candidate_of(row)} for row in sample.rows[:70]],
        {"features": {"price": [1.5, None, 30], "item_id": [1, 2, 3]}},
        {"ids": [1]},
        {"all": True},
    ]
    for turn in range(24):
        user = drawn.randrange(USERS)
        sent: dict[str, Any] = {"user_id": drawn.choice([user, str(user), float(user)])}
        sent |= {"placement": "top", "time": 1_700_000_000}
        if turn % 2:
            sent |= drawn.choice([{"country": None}, {"age": 30, "country": "us"}, {"age": None}])
        by_profile = rank(service, sent, lists[turn % 4])
        whole = {**profiles[user], **sent}
        expected = service.client.post(
            "/rank", json={"context": whole, "candidates": lists[turn % 4]}
        ).json()
        assert "degraded" not in by_profile
        for mine, theirs in zip(by_profile["ranking"], expected["ranking"], strict=True):
            assert mine["score"] == pytest.approx(theirs["score"], rel=TOLERANCE)


def test_a_profile_changes_the_score(
    start_shared_service: StartService, service: Service, profiles: dict[int, dict[str, Any]]
) -> None:
    """A service without profiles gives the same for the values, and another score without them."""
    plain = start_shared_service()
    differ = 0
    candidates = [{"features": {"item_id": 5, "price": 3}}]
    for user in range(10):
        sent = {"user_id": user, "placement": "top"}
        whole = {**profiles[user], **sent}
        (mine,) = rank(service, sent, candidates)["ranking"]
        (expected,) = rank(plain, whole, candidates)["ranking"]
        (without,) = rank(plain, sent, candidates)["ranking"]
        assert mine["score"] == pytest.approx(expected["score"], rel=TOLERANCE)
        differ += mine["score"] != pytest.approx(without["score"], rel=TOLERANCE)
    assert differ >= 5


def test_who_has_no_profile_is_scored_without(service: Service) -> None:
    """It is counted; a context without a key, or with one that cannot be, asks for none."""
    candidates = [{"features": {"item_id": 5}}]
    absent = logged(service, "absent")
    found = logged(service, "found")
    answer = rank(service, {"user_id": 10**12, "placement": "top"}, candidates)
    assert answer["ranking"]
    assert "degraded" not in answer
    assert logged(service, "absent") == absent + 1
    rank(service, {"placement": "top"}, candidates)
    rank(service, {"user_id": None, "placement": "top"}, candidates)
    wrong = {"context": {"user_id": [1], "placement": "top"}, "candidates": candidates}
    refused = service.client.post("/rank", json=wrong).json()["error"]
    assert refused["details"][0]["path"] == "context.user_id"
    assert (logged(service, "absent"), logged(service, "found")) == (absent + 1, found)


def test_a_required_field_may_come_from_the_profile(
    start_service: StartService, path: Path, tmp_path: Path
) -> None:
    """Without one, the request lacks it, and is refused as any other."""
    copy = tmp_path / "store.db"
    store = SqliteStore(copy, create=True)
    store.profiles.put([Item("7", {"placement": "side"}), Item("8", {"age": 3})])
    store.close()
    service = start_service(store=f"sqlite://{copy}", profile_key="user_id", profile_seconds=0)
    candidates = [{"features": {"item_id": 5}}]
    assert rank(service, {"user_id": 7}, candidates)["ranking"]
    body = {"context": {"user_id": 8}, "candidates": candidates}
    refused = service.client.post("/rank", json=body)
    assert refused.status_code == 422
    assert refused.json()["error"]["details"][0]["path"] == "context.placement"
    # Nothing is remembered for no time.
    store = SqliteStore(copy)
    store.profiles.put([Item(8, {"placement": "top"})])
    store.close()
    assert service.client.post("/rank", json=body).status_code == 200


def test_without_the_store_requests_are_scored_and_told(
    start_service: StartService, path: Path, tmp_path: Path
) -> None:
    """The answer and /ready say so; when the store is there again, profiles are."""
    copy = tmp_path / "store.db"
    shutil.copy(path, copy)
    service = start_service(store=f"sqlite://{copy}", profile_key="user_id", profile_seconds=0)
    candidates = [{"features": {"item_id": 5}}]
    sent = {"user_id": 1, "placement": "top"}
    before = rank(service, sent, candidates)
    shutil.copy(copy, tmp_path / "kept.db")
    for each in tmp_path.glob("store.db*"):
        each.unlink()
    without = rank(service, sent, candidates)
    assert without["degraded"] == ["profiles"]
    again = rank(service, sent, candidates)
    assert (again["ranking"], again["degraded"]) == (without["ranking"], ["profiles"])
    assert logged(service, "unavailable") == 2

    def degraded() -> list[str]:
        found: list[str] = service.client.get("/ready").json()["degraded"]
        return found

    wait_until(lambda: degraded() == ["catalogue", "profiles"], "/ready says so")
    (tmp_path / "kept.db").rename(copy)
    wait_until(lambda: degraded() == [], "the store is there again")
    assert rank(service, sent, candidates) == before


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"profile_key": "user_id"}, "setting profile_key: needs the setting store"),
        ({"profile_key": "item_id", "store": None}, "'item_id' is a candidate field"),
    ],
)
def test_a_wrong_setting_is_told_at_start(
    tiny_bundle: Path, path: Path, settings: dict[str, Any], problem: str
) -> None:
    """By its name."""
    if "store" in settings:
        settings = {**settings, "store": f"sqlite://{path}"}
    ended = run_to_end(tiny_bundle, **settings)
    assert ended.returncode != 0
    assert problem in ended.stdout + ended.stderr


def profiles_command(*words: object) -> subprocess.CompletedProcess[str]:
    """Run ``python -m app profiles``."""
    return run("app", "profiles", *words)


def test_the_command_stores_shows_and_deletes(tiny_bundle: Path, tmp_path: Path) -> None:
    """As that of items; values are checked as context values, required ones may be absent."""
    lines = tmp_path / "users.jsonl"
    mine = ("--store", f"sqlite://{tmp_path / 'mine.db'}")
    lines.write_text('{"user_id": 7, "age": 30}\n{"user_id": "8", "price": 1}\n')
    given = ["put", lines, "--key", "user_id", "--bundle", tiny_bundle, *mine]
    refused = profiles_command(*given)
    assert refused.returncode == 1
    assert f"{lines}:2: field 'price': this is a candidate field" in refused.stderr
    assert "1 of 2 lines are wrong; nothing is stored" in refused.stderr
    lines.write_text('{"user_id": 7, "age": 30}\n{"user_id": "8", "age": "x"}\n')
    assert "field 'age': expected a number, got text" in profiles_command(*given).stderr
    done = profiles_command(*given, "--max-bad-lines", 0.5)
    assert "stored 1 profiles" in done.stderr
    shown = profiles_command("get", "7", *mine)
    assert json.loads(shown.stdout) == {"id": 7, "features": {"user_id": 7, "age": 30}}
    written = tmp_path / "all.jsonl"
    assert profiles_command("export", written, *mine).returncode == 0
    assert profiles_command("delete", 7, *mine).returncode == 0
    assert "there is no profile '7'" in profiles_command("get", "7", *mine).stderr
    assert profiles_command("put", written, "--bundle", tiny_bundle, *mine).returncode == 0
    assert profiles_command("count", *mine).stdout == "1\n"


def test_profiles_are_put_on_the_admin_port(start_service: StartService, tmp_path: Path) -> None:
    """They serve after ``CTR_PROFILE_SECONDS``; wrong lines change nothing."""
    store = tmp_path / "store.db"
    SqliteStore(store, create=True).close()
    keys = tmp_path / "keys"
    keys.write_text(hashlib.sha256(KEY.encode()).hexdigest())
    service = start_service(
        store=f"sqlite://{store}",
        profile_key="user_id",
        profile_seconds=0,
        admin_port=(port := free_port()),
        admin_key_file=keys,
    )
    sent = {"user_id": 1, "placement": "top"}
    candidates = [{"features": {"item_id": 5}}]
    assert logged(service, "found") == 0
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}/admin",
        timeout=60.0,
        trust_env=False,
        headers={"authorization": f"Bearer {KEY}"},
    ) as admin:
        wrong = admin.put("/profiles", content='{"id": 1, "features": {"age": "x"}}')
        assert wrong.status_code == 422
        assert wrong.json()["error"]["details"][0]["path"] == "line 1.features.age"
        put = admin.put("/profiles", content='{"id": 1, "features": {"age": 30, "vip": 1}}')
        assert put.json() == {"stored": 1}
        shown = admin.get("/profiles/1").json()
        assert shown["features"] == {"age": 30, "vip": 1}
        assert shown["indices"].keys() == {"age"}
        rank(service, sent, candidates)
        assert logged(service, "found") == 1
        assert admin.delete("/profiles/1").json() == {"deleted": 1}
        assert admin.delete("/profiles/1").status_code == 404
        assert admin.get("/items/1").status_code == 404
    rank(service, sent, candidates)
    assert (logged(service, "found"), logged(service, "absent")) == (1, 1)
