"""A canary beside stores: a vocabulary in Redis, profiles that fill what a request does not say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from app.bundle.directory import CURRENT
from app.rollout.shares import Shares
from app.store.sqlite import SqliteStore
from app.store.store import Item
from tests.conftest import PATIENT_MS, StartService
from tests.support.admin import Admin, StartAdmin
from tests.support.redis_server import RedisServer
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, strict
from tests.support.swaps import COMPANY
from tests.support.vocabularies import publish_now

pytestmark = pytest.mark.e2e
USERS = 60
SHARE = 0.5
Row = dict[str, Any]


@pytest.fixture
def pinned(bundles: Path, tiny_bundle: Path, other_bundle: Path) -> Path:
    """A directory whose older bundle serves, with a newer one beside it."""
    (bundles / CURRENT).write_text(f"{tiny_bundle.name}\n")
    shutil.copytree(other_bundle, bundles / other_bundle.name)
    return bundles


@pytest.fixture
def users(sample: Sample) -> list[Row]:
    """Rows of users that the log knows, and some that it does not, each with one of its own."""
    known = {row["user_id"]: row for row in sample.rows if "user_id" in row}
    rows = list(known.values())[:USERS]
    assert len(rows) > USERS // 2
    return rows


def ranked(service: Service, context: Row, row: Row) -> tuple[str, float]:
    """The version and the score of a row's candidate for a context."""
    body = {"context": context, "candidates": [{"features": candidate_of(row)}]}
    answer = service.post("/rank", body)
    assert answer.status_code == 200, answer.text
    told = strict(answer.content)
    assert "degraded" not in told, told
    return told["version"], told["ranking"][0]["score"]


def expected(
    start: StartService, bundles: tuple[Path, Path], rows: list[Row], canary: str
) -> list[tuple[str, float]]:
    """What each user gets: the score of the bundle of its side, by a service with no store."""
    takes = Shares(canary, SHARE).takes
    alone = {each.name: start(each) for each in bundles}
    other = next(name for name in alone if name != canary)
    sides = [canary if takes(str(row["user_id"])) else other for row in rows]
    assert set(sides) == set(alone)
    return [
        ranked(alone[side], context_of(row), row) for side, row in zip(sides, rows, strict=True)
    ]


def same(found: list[tuple[str, float]], wanted: list[tuple[str, float]]) -> None:
    assert [version for version, _ in found] == [version for version, _ in wanted]
    scores = [score for _, score in wanted]
    assert [score for _, score in found] == pytest.approx(scores, abs=COMPANY)


def begin(admin: Admin, canary: str) -> None:
    answer = admin.canary(canary, share=SHARE)
    assert answer.status_code == 200, answer.text


def test_each_side_looks_up_its_own_vocabulary_in_redis(
    start_admin: StartAdmin, start_service: StartService, pinned: Path, tiny_bundle: Path,
    other_bundle: Path, users: list[Row], valkey: RedisServer,
) -> None:  # fmt: skip
    """Both have other rows for the same values; /predict divides instances and tells who scored."""
    for each in (tiny_bundle, other_bundle):
        publish_now(valkey.url, each)
    wanted = expected(start_service, (tiny_bundle, other_bundle), users, other_bundle.name)
    admin = start_admin(pinned, redis_url=valkey.url, workers=2)
    assert strict(admin.service.client.get("/ready").content)["vocabulary"] == "redis"
    begin(admin, other_bundle.name)
    for _ in ("cold", "warm"):
        same([ranked(admin.service, context_of(row), row) for row in users], wanted)
    answer = strict(admin.service.post("/predict", {"instances": users}).content)
    assert "degraded" not in answer
    same(list(zip(answer["versions"], answer["predictions"], strict=True)), wanted)
    assert admin.service.metrics()["ctr_redis_round_trips_total"] > 0
    promoted = admin.client.post(f"/bundles/{other_bundle.name}/promote")
    assert promoted.status_code == 200, promoted.text
    alone = start_service(other_bundle)
    same(
        [ranked(admin.service, context_of(row), row) for row in users],
        [ranked(alone, context_of(row), row) for row in users],
    )


def test_without_redis_both_sides_go_on(
    start_admin: StartAdmin, start_service: StartService, pinned: Path, tiny_bundle: Path,
    other_bundle: Path, users: list[Row], valkey: RedisServer,
) -> None:  # fmt: skip
    """With the bundle's own copy of the vocabulary: the same scores, by the same sides."""
    for each in (tiny_bundle, other_bundle):
        publish_now(valkey.url, each)
    wanted = expected(start_service, (tiny_bundle, other_bundle), users, other_bundle.name)
    admin = start_admin(pinned, redis_url=valkey.url, vocabulary_cache=1)
    begin(admin, other_bundle.name)
    same([ranked(admin.service, context_of(row), row) for row in users], wanted)
    valkey.stop()
    found = []
    for row in users:
        body = {"context": context_of(row), "candidates": [{"features": candidate_of(row)}]}
        answer = admin.service.post("/rank", body)
        assert answer.status_code == 200, answer.text
        told = strict(answer.content)
        found.append((told["version"], told["ranking"][0]["score"]))
    same(found, wanted)
    trial = admin.trial()
    assert trial is not None
    assert trial["state"] == "running"


def test_profiles_fill_the_contexts_of_both_sides(
    start_admin: StartAdmin, start_service: StartService, pinned: Path, tiny_bundle: Path,
    other_bundle: Path, users: list[Row], tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """A request with no more than the user's id and the moment has the scores of one with all."""
    of_request = ("user_id", "time", "placement")
    path = tmp_path_factory.mktemp("store") / "store.db"
    store = SqliteStore(path, create=True)
    store.profiles.put(
        Item(row["user_id"], {k: v for k, v in context_of(row).items() if k not in of_request})
        for row in users
    )
    store.close()
    wanted = expected(start_service, (tiny_bundle, other_bundle), users, other_bundle.name)
    admin = start_admin(
        pinned, store=f"sqlite://{path}", profile_key="user_id", redis_timeout_ms=PATIENT_MS,
        workers=2,
    )  # fmt: skip
    begin(admin, other_bundle.name)
    short = [{k: v for k, v in context_of(row).items() if k in of_request} for row in users]
    assert any(len(each) < len(context_of(row)) for each, row in zip(short, users, strict=True))
    same([ranked(admin.service, each, row) for each, row in zip(short, users, strict=True)], wanted)
    metrics = admin.service.metrics()
    assert metrics['ctr_profile_lookups_total{outcome="found"}'] == len(users)
