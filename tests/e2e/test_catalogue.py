"""Candidates by id: stored once, ranked as if their values had been sent."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.bundle.bundle import Bundle
from tests.conftest import PATIENT_MS, StartService
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import (
    Service,
    free_port,
    run_to_end,
    strict,
    wait_until,
    workers_of,
)
from tests.support.starting import run

pytestmark = pytest.mark.e2e
KEY = "0123456789abcdef" * 4
ITEMS = 200
UNKNOWN = [987_654, "nobody"]
TOLERANCE = 1e-4


def items_command(*words: object) -> subprocess.CompletedProcess[str]:
    """Run ``python -m app items``."""
    return run("app", "items", *words)


@pytest.fixture
def admin() -> Iterator[httpx.Client]:
    """A client of an admin port, and its key."""
    with httpx.Client(
        base_url=f"http://127.0.0.1:{free_port()}/admin",
        timeout=60.0,
        trust_env=False,
        headers={"authorization": f"Bearer {KEY}"},
    ) as client:
        yield client


@pytest.fixture(scope="module")
def items(sample: Sample) -> dict[int, dict[str, Any]]:
    """Values by id."""
    return {number: candidate_of(row) for number, row in enumerate(sample.rows[:ITEMS])}


@pytest.fixture(scope="module")
def store(
    items: dict[int, dict[str, Any]], tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A store with the items, put there by the command."""
    directory = tmp_path_factory.mktemp("store")
    lines = directory / "items.jsonl"
    lines.write_text("".join(json.dumps({"sku": n, **v}) + "\n" for n, v in items.items()))
    url = f"sqlite://{directory / 'store.db'}"
    absent = items_command("get", "1", "--store", url)
    assert "there is no store" in absent.stderr
    done = items_command("put", lines, "--id", "sku", "--bundle", tiny_bundle, "--store", url)
    assert done.returncode == 0, done.stderr
    assert f"stored {ITEMS} items" in done.stderr
    return url


@pytest.fixture(scope="module")
def service(start_shared_service: StartService, store: str) -> Service:
    """A service over the store, which no test changes."""
    return start_shared_service(store=store)


def rank(service: Service, body: dict[str, Any], status: int = 200) -> Any:
    answer = service.client.post("/rank", json=body)
    assert answer.status_code == status, answer.text
    return strict(answer.content)


def scores(answer: Any) -> dict[Any, float]:
    return {each["id"]: each["score"] for each in answer["ranking"]}


def test_a_ranking_by_id_is_the_one_with_the_values(
    service: Service, items: dict[int, dict[str, Any]], sample: Sample
) -> None:
    """Over random lists, with values of the request's own in the place of stored ones."""
    drawn = random.Random(3)
    for turn in range(40):
        context = context_of(sample.rows[drawn.randrange(len(sample.rows))])
        ids = drawn.choices(range(ITEMS), k=drawn.choice([1, 2, 63, 64, 65, 150]))
        named = [drawn.choice([each, str(each)]) for each in ids]
        own: dict[str, list[Any]] = {}
        if turn % 2:
            own["price"] = [drawn.choice([None, 0.5, 7, 1e6]) for _ in ids]
            own["tags"] = [drawn.choice([None, [], ["film", "unheard of"]]) for _ in ids]
        values = [
            {**items[each], **{name: column[row] for name, column in own.items()}}
            for row, each in enumerate(ids)
        ]
        listed = {"ids": named, "features": own} if own else {"ids": named}
        top_k = drawn.choice([None, 5])
        asked = {"context": context, **({} if top_k is None else {"top_k": top_k})}
        by_id = rank(service, {**asked, "candidates": listed})
        sent = [{"id": n, "features": v} for n, v in zip(named, values, strict=True)]
        by_values = rank(service, {**asked, "candidates": sent})
        assert by_id["version"] == by_values["version"]
        assert "unknown" not in by_id
        for mine, theirs in zip(by_id["ranking"], by_values["ranking"], strict=True):
            assert mine["score"] == pytest.approx(theirs["score"], rel=TOLERANCE)
            assert named[mine["index"]] == mine["id"]
        if top_k is None:
            expected = {each["index"]: each["score"] for each in by_values["ranking"]}
            for mine in by_id["ranking"]:
                assert mine["score"] == pytest.approx(expected[mine["index"]], rel=TOLERANCE)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"precision": "int8"}, None),
        ({"item_parts_bytes": 0}, "CTR_ITEM_PARTS_BYTES is 0"),
        ({"item_parts_bytes": 50_000, "max_catalogue_rows": 200}, "no room for the item parts"),
        ({"parts_dir": "/proc/1/no-such"}, "cannot be used"),
        ({"workers": 2}, None),
    ],
)
def test_item_parts_change_no_score(
    start_service: StartService, store: str, items: dict[int, dict[str, Any]], sample: Sample,
    settings: dict[str, Any], problem: str | None,
) -> None:  # fmt: skip
    """In int8, without the room for some or all of them, and beside rows from other requests."""
    service = start_service(store=store, **settings)
    told = service.client.get("/ready").json()["catalogue"]
    if problem is None:
        assert (told["item_parts"], told["item_parts_problem"]) == (ITEMS, None)
    else:
        assert told["item_parts"] < ITEMS
        assert problem in told["item_parts_problem"]
    for row in sample.rows[:10]:
        asked = {"context": context_of(row)}
        by_id = rank(service, {**asked, "candidates": {"all": True}})
        sent = [{"id": number, "features": values} for number, values in items.items()]
        by_values = rank(service, {**asked, "candidates": sent})
        assert scores(by_id) == pytest.approx(scores(by_values), rel=10 * TOLERANCE)
        some = {"all": True, "prefilter": 50, "exclude": [3]}
        body = {**asked, "candidates": some}
        if not told["item_parts"]:
            error = rank(service, body, 422)["error"]
            assert "no item parts are held" in error["details"][0]["problem"]
            continue
        cut = scores(rank(service, body))
        assert len(cut) == 50
        assert 3 not in cut
        expected = {number: scores(by_values)[number] for number in cut}
        assert cut == pytest.approx(expected, rel=10 * TOLERANCE)


def test_what_a_killed_service_leaves_is_removed(
    start_service: StartService, store: str, sample: Sample, tiny_bundle: Path, tmp_path: Path
) -> None:
    """The successor of a worker holds all item parts again; so does the next start."""
    parts = tmp_path / "parts"
    parts.mkdir()
    settings = {"store": store, "parts_dir": parts, "workers": 2, "deadline_ms": PATIENT_MS}
    service = Service(tiny_bundle, tmp_path / "log", **settings)
    service.wait_ready()
    (file,) = parts.glob("*.parts")
    os.kill(workers_of(service)[0], signal.SIGKILL)
    service.client.headers["connection"] = "close"
    body = {"context": context_of(sample.rows[0]), "candidates": {"all": True, "prefilter": 20}}

    def all_answer() -> bool:
        try:
            return all(len(rank(service, body)["ranking"]) == 20 for _ in range(12))
        except httpx.TransportError:
            # The connection was given to the worker that was killed.
            return False

    wait_until(lambda: len(workers_of(service)) == 2, "the worker has a successor")
    wait_until(all_answer, "the successor answers")
    assert list(parts.glob("*.parts")) == [file]
    # Stopped first, because workers whose supervisor has gone end in order.
    processes = [*workers_of(service), service.process.pid]
    for each in (signal.SIGSTOP, signal.SIGKILL):
        for pid in processes:
            os.kill(pid, each)
    service.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), "all ended")
    assert file.exists()
    other = start_service(**settings)
    assert len(rank(other, body)["ranking"]) == 20
    assert not file.exists()
    assert len(list(parts.glob("*.parts"))) == 1
    assert other.stop() == 0
    assert list(parts.iterdir()) == []


def test_a_first_cut_is_made_of_what_other_conditions_leave(
    service: Service, items: dict[int, dict[str, Any]], sample: Sample
) -> None:
    """Its items are the same ones every time; those that it may leave are all that there are."""
    asked = {"context": context_of(sample.rows[0])}
    where = {"tags": ["film", "music"]}
    every = scores(rank(service, {**asked, "candidates": {"all": True, "where": where}}))
    listed = {"all": True, "where": where, "prefilter": len(every) - 5}
    cut = scores(rank(service, {**asked, "candidates": listed}))
    assert cut.keys() < every.keys()
    assert len(cut) == len(every) - 5
    assert scores(rank(service, {**asked, "candidates": listed})).keys() == cut.keys()
    listed["prefilter"] = len(every) + 1
    assert scores(rank(service, {**asked, "candidates": listed})) == pytest.approx(every)


def test_the_whole_catalogue_can_be_ranked(service: Service, sample: Sample) -> None:
    """Some of it may be left out; items have ids and no index."""
    context = context_of(sample.rows[0])
    everything = rank(service, {"context": context, "candidates": {"all": True}})
    assert set(scores(everything)) == set(range(ITEMS))
    assert all("index" not in each for each in everything["ranking"])
    some = {"all": True, "exclude": [0, "1", 12345678]}
    fewer = rank(service, {"context": context, "candidates": some, "top_k": 3})
    best = [each for each in everything["ranking"] if each["id"] not in (0, 1)][:3]
    assert [each["id"] for each in fewer["ranking"]] == [each["id"] for each in best]
    ids = {"ids": list(range(ITEMS)), "exclude": list(range(10, ITEMS))}
    assert set(scores(rank(service, {"context": context, "candidates": ids}))) == set(range(10))


def test_items_are_chosen_by_their_values(
    service: Service, items: dict[int, dict[str, Any]], sample: Sample
) -> None:
    """Of the whole catalogue, or of the ids; all conditions must hold."""
    context = context_of(sample.rows[0])
    where = {"tags": ["film", "music"], "price": {"min": 1.5, "max": 40}}
    chosen = {
        number
        for number, values in items.items()
        if {"film", "music"} & set((values.get("tags") or [])[:4])
        and 1.5 <= (values.get("price") or 0) <= 40
    }
    assert 0 < len(chosen) < ITEMS
    asked = {"context": context, "candidates": {"all": True, "where": where}}
    assert set(scores(rank(service, asked))) == chosen
    few = sorted(chosen)[:2]
    listed = {"ids": [*range(ITEMS), "nobody"], "where": where, "exclude": few}
    answer = rank(service, {"context": context, "candidates": listed})
    assert set(scores(answer)) == chosen - set(few)
    assert all(each["index"] == each["id"] for each in answer["ranking"])
    assert answer["unknown"]["total"] == 1


@pytest.mark.parametrize("asked", [None, "omit", "last", "error"])
def test_unknown_ids_are_told_and_never_scored(
    service: Service, sample: Sample, asked: str | None
) -> None:
    """Left out by default, or last without a score, or refused by place."""
    body = {
        "context": context_of(sample.rows[0]),
        "candidates": {"ids": [UNKNOWN[0], 3, UNKNOWN[1], 4]},
        **({"on_unknown": asked} if asked else {}),
    }
    if asked == "error":
        error = rank(service, body, 422)["error"]
        assert [each["path"] for each in error["details"]] == [
            "candidates.ids[0]",
            "candidates.ids[2]",
        ]
        return
    answer = rank(service, body)
    assert answer["unknown"] == {"total": 2, "ids": UNKNOWN}
    ranked = answer["ranking"]
    assert {each["id"] for each in ranked[:2]} == {3, 4}
    assert {each["index"] for each in ranked[:2]} == {1, 3}
    last = [{"index": 0, "id": UNKNOWN[0], "score": None}, {"index": 2, "id": UNKNOWN[1],
                                                            "score": None}]  # fmt: skip
    assert ranked[2:] == (last if asked == "last" else [])
    body["top_k"] = 3
    assert rank(service, body)["ranking"][2:] == (last[:1] if asked == "last" else [])
    body["candidates"]["ids"] = UNKNOWN
    assert len(rank(service, body)["ranking"]) == (2 if asked == "last" else 0)


@pytest.mark.parametrize(
    ("candidates", "path", "problem"),
    [
        ({"ids": [1], "all": True}, "candidates.all", "give all or ids"),
        ({"ids": [1], "id": [1]}, "candidates.id", "items are named by ids"),
        ({"all": True, "features": {}}, "candidates.features", "beside ids"),
        ({"ids": [1], "features": {"price": [1, 2]}}, "candidates.ids", "length 1, expected 2"),
        ({"ids": [1], "features": {"age": [1]}}, "candidates.features.age", "this is a context"),
        ({"ids": [1, 2], "features": {"price": [1, "x"]}}, "candidates.features.price[1]", "got"),
        ({"ids": [UNKNOWN[0], 2], "features": {"price": [1, "x"]}},
         "candidates.features.price[1]", "got"),
        ({"ids": [True]}, "candidates.ids[0]", "Expected"),
        ({"ids": [1.5]}, "candidates.ids[0]", "Expected"),
        ({"ids": [None]}, "candidates.ids[0]", "Expected"),
        ({"all": True, "where": []}, "candidates.where", "Expected `object"),
        ({"all": True, "where": {"price": 1}}, "candidates.where.price", "Expected"),
        ({"all": True, "where": {"price": {"above": 1}}}, "candidates.where.price", "unknown"),
        ({"all": True, "where": {"age": [1]}}, "candidates.where.age", "no candidate field"),
        ({"ids": [1], "where": {"price": ["x"]}}, "candidates.where.price", "expected a number"),
        ({"all": True, "excludes": [1]}, "candidates.excludes", "did you mean 'exclude'"),
        ({"ids": [1], "WHERE": {}}, "candidates.WHERE", "unknown key"),
        ({"ids": [1], "prefilter": 5}, "candidates.prefilter", "of all, not of ids"),
        ({"all": True, "prefilter": 0}, "candidates.prefilter", "Expected `int` >= 1"),
        ({"all": True, "prefilter": 20_001}, "candidates.prefilter", "at most 20000"),
        ({"all": True, "prefilter": "5"}, "candidates.prefilter", "Expected `int"),
        ({"all": False}, "candidates", "expected features, ids, or all"),
        ({"ids": list(range(5_001))}, None, "more than 5000 candidates in ids"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_refused_by_name(
    service: Service, sample: Sample, candidates: Any, path: str | None, problem: str
) -> None:
    """And nothing of it is scored."""
    body = {"context": context_of(sample.rows[0]), "candidates": candidates}
    error = rank(service, body, 413 if path is None else 422)["error"]
    if path is None:
        assert problem in error["message"]
    else:
        assert error["details"][0]["path"] == path
        assert problem in error["details"][0]["problem"]


def test_without_a_store_no_item_can_be_named(
    start_shared_service: StartService, sample: Sample
) -> None:
    """The error says which setting there is."""
    body = {"context": context_of(sample.rows[0]), "candidates": {"ids": [1]}}
    error = rank(start_shared_service(), body, 422)["error"]
    assert "CTR_STORE" in error["details"][0]["problem"]


def test_a_large_catalogue_is_not_ranked_as_a_whole(
    start_service: StartService, store: str, sample: Sample
) -> None:
    """The limit is a setting; what is left after ``exclude`` counts."""
    service = start_service(store=store, max_catalogue_rows=ITEMS - 1, unknown_items="error")
    body = {"context": context_of(sample.rows[0]), "candidates": {"all": True}}
    error = rank(service, body, 422)["error"]
    assert f"{ITEMS} items would be ranked, over {ITEMS - 1}" in error["details"][0]["problem"]
    body["candidates"] = {"all": True, "exclude": [0]}
    assert len(rank(service, body)["ranking"]) == ITEMS - 1
    body["candidates"] = {"ids": UNKNOWN}
    rank(service, body, 422)


@pytest.mark.parametrize("workers", [1, 2])
def test_items_that_are_put_are_served_at_once_by_all_workers(
    start_service: StartService,
    bundles: Path,
    other_bundle: Path,
    sample: Sample,
    admin: httpx.Client,
    tmp_path: Path,
    workers: int,
) -> None:
    """Through the admin port; wrong lines change nothing; a swap encodes all of them again."""
    store = f"sqlite://{tmp_path / 'new.db'}"
    assert items_command("create", "--store", store).returncode == 0
    keys = tmp_path / "keys"
    keys.write_text(hashlib.sha256(KEY.encode()).hexdigest())
    service = start_service(
        bundles,
        workers=workers,
        store=store,
        admin_port=admin.base_url.port,
        admin_key_file=keys,
        bundle_poll_seconds=0.1,
    )
    service.client.headers["connection"] = "close"
    context = context_of(sample.rows[0])
    everything = {"context": context, "candidates": {"all": True}}
    assert rank(service, everything)["ranking"] == []
    odd = ["a/b", "é ü", "..", "%2F", "?x=1&y", "#", "'; --", "\u0000", 7]
    lines = [{"id": each, "features": {"price": n}} for n, each in enumerate(odd)]
    body = "\n".join(map(json.dumps, lines))
    wrong = admin.put("/items", content=body + '\n{"id": 1, "features": {"price": "x"}}')
    assert wrong.status_code == 422
    (detail,) = wrong.json()["error"]["details"]
    assert detail == {"path": "line 10.features.price", "problem": "expected a number, got text"}
    wrong = admin.put("/items", content=b'{"id": 1, "features": {}}\r{"id": 2, "features": {}}')
    assert "a line ends in" in wrong.json()["error"]["details"][0]["problem"]
    assert admin.put("/items", content=body).json() == {"stored": len(odd)}
    long = [{"id": 0, "features": {"price": 1, "title": "x" * 1_000}}] * 2_000
    assert admin.put("/items", content="\n".join(map(json.dumps, long))).json()["stored"] == 2_000
    assert admin.delete("/items/0").json() == {"deleted": 1}
    assert admin.put("/items", content=b" " * (8 * 2**20 + 1)).status_code == 413

    def all_have(expected: set[Any]) -> bool:
        return all(set(scores(rank(service, everything))) == expected for _ in range(6 * workers))

    wait_until(lambda: all_have(set(odd)), "every worker has the items")
    one = rank(service, {"context": context, "candidates": {"ids": ["7"], "features": {}}})
    assert [each["id"] for each in one["ranking"]] == ["7"]
    shown = admin.get("/items/7").json()
    assert shown["features"] == {"price": 8}
    assert shown["indices"].keys() == {"item_id", "tags", "price", "quality"}
    assert admin.delete("/items/7").json() == {"deleted": 1}
    assert admin.delete("/items/7").status_code == 404
    assert admin.get("/items/7").status_code == 404
    wait_until(lambda: all_have(set(odd) - {7}), "every worker has forgotten the item")
    before = scores(rank(service, everything))
    (bundles / other_bundle.name).symlink_to(other_bundle)
    wait_until(
        lambda: all(
            rank(service, everything)["version"] == Bundle.open(other_bundle).version
            for _ in range(6)
        ),
        "the other bundle serves",
    )
    after = rank(service, everything)
    sent = [{"id": line["id"], "features": line["features"]} for line in lines[:-1]]
    expected = scores(rank(service, {"context": context, "candidates": sent}))
    assert scores(after) == pytest.approx(expected, rel=TOLERANCE)
    assert scores(after) != before
    ready = service.wait_ready()["catalogue"]
    assert ready == {
        "items": len(odd) - 1, "refused_items": 0, "problem": None,
        "item_parts": len(odd) - 1, "item_parts_problem": None,
    }  # fmt: skip


def test_a_store_that_is_gone_is_not_replaced_by_an_empty_one(
    start_service: StartService, tiny_bundle: Path, store: str, sample: Sample, tmp_path: Path
) -> None:
    """What was read goes on serving; a worker that is new starts without items, and says so."""
    mine = f"sqlite://{tmp_path / 'items.db'}"
    ended = run_to_end(tiny_bundle, store=mine)
    assert ended.returncode != 0
    assert "there is no store" in ended.stdout + ended.stderr
    shutil.copy(store.removeprefix("sqlite://"), tmp_path / "items.db")
    service = start_service(store=mine, workers=2)
    service.client.headers["connection"] = "close"
    for path in tmp_path.glob("items.db*"):
        path.unlink()
    everything = {"context": context_of(sample.rows[0]), "candidates": {"all": True}}

    def degraded() -> bool:
        return service.client.get("/ready").json()["degraded"] == ["catalogue"]

    wait_until(lambda: all(degraded() for _ in range(12)), "both workers say so")
    assert {len(rank(service, everything)["ranking"]) for _ in range(12)} == {ITEMS}
    killed = workers_of(service)[1]
    os.kill(killed, signal.SIGKILL)
    wait_until(
        lambda: {len(rank(service, everything)["ranking"]) for _ in range(12)} == {0, ITEMS},
        "the successor has none",
    )
    assert all(degraded() for _ in range(12))
    assert not (tmp_path / "items.db").exists()
    shutil.copy(store.removeprefix("sqlite://"), tmp_path / "items.db")
    wait_until(lambda: not any(degraded() for _ in range(12)), "the store is there again")
    assert {len(rank(service, everything)["ranking"]) for _ in range(12)} == {ITEMS}


def test_the_command_stores_shows_and_deletes(
    tiny_bundle: Path, tmp_path: Path, store: str
) -> None:
    """Wrong lines are named by file, line and field, and nothing is stored with them."""
    lines = tmp_path / "items.jsonl"
    mine = f"sqlite://{tmp_path / 'mine.db'}"
    lines.write_text('{"item_id": 1}\n{"item_id": 2, "price": "x"}\n{"item_id": 3}\n')
    given = ["put", lines, "--id", "item_id", "--bundle", tiny_bundle, "--store", mine]
    refused = items_command(*given)
    assert refused.returncode == 1
    assert f"{lines}:2: field 'price': expected a number, got text" in refused.stderr
    assert "1 of 3 lines are wrong; nothing is stored" in refused.stderr
    assert "there is no store" in items_command("count", "--store", mine).stderr
    assert items_command(*given, "--max-bad-lines", "0.4").returncode == 0
    got = items_command("get", "3", "--store", mine)
    assert json.loads(got.stdout) == {"id": 3, "features": {"item_id": 3}}
    written = tmp_path / "all.jsonl.gz"
    for kept in (tmp_path / "mine.db", "/dev/full"):
        refused = items_command("export", kept, "--store", mine)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert str(kept) in refused.stderr
    assert items_command("put", "/dev/stdin", *given[2:]).returncode == 1
    assert items_command("export", written, "--store", mine).returncode == 0
    assert items_command("delete", 1, 99, "--store", mine).returncode == 1
    assert items_command("put", written, "--bundle", tiny_bundle, "--store", mine).returncode == 0
    assert items_command("count", "--store", mine).stdout == "2\n"
    lines.write_text('{"item_id": 3, "price": 1}\n{"item_id": "3", "price": 2}\r\n' * 2)
    again = items_command(*given)
    assert "stored 1 items" in again.stderr
    assert "3 lines have the id of a later one, which counts" in again.stderr
    got = items_command("get", "3", "--store", mine)
    assert json.loads(got.stdout) == {"id": "3", "features": {"item_id": "3", "price": 2}}
    lines.write_text('{"id": 8, "features": {}}\r{"id": 9, "features": {}}\r')
    refused = items_command("put", lines, "--bundle", tiny_bundle, "--store", mine)
    assert "a line ends in" in refused.stderr
    refused = items_command("get", os.fsdecode(b"\xff"), "--store", mine)
    assert (refused.returncode, "an id is UTF-8" in refused.stderr) == (2, True)
    missing = items_command("count", "--store", f"sqlite://{tmp_path / 'none.db'}")
    assert missing.returncode == 1
    assert "there is no store" in missing.stderr
