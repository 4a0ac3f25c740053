"""The request log: what was scored is written down, and nothing else notices."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from app.bundle.bundle import Bundle
from app.features.encoder import Encoder
from app.feedback.log_format import LoggedCandidate, LoggedRequest, unpacked
from app.store.sqlite import SqliteStore
from app.store.store import Item
from model.feedback.join import join
from model.feedback.replay import replay
from model.score_files import Offline
from tests.conftest import StartService
from tests.support.feedback import events_in, key_file, requests_in, send
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, run_to_end, wait_until, workers_of
from tests.support.starting import run

pytestmark = pytest.mark.e2e
ITEMS = 40
OF_REQUEST = ("time", "placement", "user_id")


@dataclass
class Kept:
    """A service that has ended, what it answered by request id, and its log."""

    answers: dict[str, Any]
    requests: dict[str, LoggedRequest]
    bundle: Bundle
    encoder: Encoder
    log: Path


def ask(service: Service, path: str, body: Any, name: str, answers: dict[str, Any]) -> None:
    answer = service.client.post(path, json=body, headers={"x-request-id": name})
    assert answer.status_code == 200, answer.text
    answers[name] = answer.json()


@pytest.fixture(scope="module")
def kept(
    start_shared_service: StartService,
    tiny_bundle: Path,
    sample: Sample,
    tmp_path_factory: pytest.TempPathFactory,
) -> Kept:
    """Every kind of request, answered by a service that logs all of them."""
    directory = tmp_path_factory.mktemp("kept")
    store = SqliteStore(directory / "store.db", create=True)
    store.put(Item(number, candidate_of(row)) for number, row in enumerate(sample.rows[:ITEMS]))
    profiles = [
        Item(
            number,
            {name: value for name, value in context_of(row).items() if name not in OF_REQUEST},
        )
        for number, row in enumerate(sample.rows[:ITEMS])
    ]
    store.profiles.put(profiles)
    store.close()
    service = start_shared_service(
        request_log=directory / "log",
        request_log_share=1,
        store=f"sqlite://{directory / 'store.db'}",
        profile_key="user_id",
        item_key="sku",
        workers=2,
    )
    answers: dict[str, Any] = {}
    rows = sample.rows
    context = {"user_id": 3, "placement": "top", "time": 1_700_000_000, "unknown": "kept"}
    listed = [{"id": f"ad-{n}", "features": candidate_of(row)} for n, row in enumerate(rows[:90])]
    ask(service, "/rank", {"context": context, "candidates": listed, "top_k": 5}, "rows", answers)
    columns = {
        name: [each["features"].get(name) for each in listed] for name in ("price", "item_id")
    }
    body: Any = {"context": context, "candidates": {"features": columns}}
    ask(service, "/rank", body, "columns", answers)
    body = {"context": context, "candidates": {"ids": [7, "8", 9, 5_000, 1]}, "on_unknown": "last"}
    ask(service, "/rank", body, "ids", answers)
    own = {"ids": [7, 5_000, 1], "features": {"price": [1.5, 2.5, 9.5]}}
    ask(service, "/rank", {"context": context, "candidates": own}, "own", answers)
    ask(service, "/rank", {"context": context, "candidates": {"all": True}}, "all", answers)
    ask(service, "/predict", {"instances": rows[:1]}, "one", answers)
    ask(service, "/predict", {"instances": [*rows[:9], *rows[3:12]]}, "many", answers)
    some = [{"sku": 4, "user_id": 2}, {"sku": 9_999}, {"sku": "5", "price": 3.5}]
    body = {"instances": [{**each, "placement": "top"} for each in some], "stored": True}
    ask(service, "/predict", body, "stored", answers)
    empty = {"context": context, "candidates": []}
    ask(service, "/rank", empty, "empty", answers)
    refused = service.client.post("/predict", json={"instances": [{"user_id": []}]})
    assert refused.status_code == 422
    service.stop()
    assert not list((directory / "log").glob("*.open"))
    requests = {each.request_id: each for each in requests_in(directory / "log")}
    bundle = Bundle.open(tiny_bundle)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    return Kept(answers, requests, bundle, encoder, directory / "log")


def encoded(kept: Kept, request: LoggedRequest, candidate: LoggedCandidate) -> bool:
    """Whether the values of a row, encoded again, are the words that were scored."""
    values = {**request.context, **(candidate.features or {})}
    sides = kept.encoder.context, kept.encoder.candidate
    words = request.contexts[candidate.context], candidate.encoded
    return all(
        side.row(values) == unpacked(text).tobytes()
        for side, text in zip(sides, words, strict=True)
    )


def test_every_answer_has_its_line(kept: Kept) -> None:
    """One line a request, with its id, route, version; a refused request has none."""
    assert kept.requests.keys() == kept.answers.keys()
    for name, request in kept.requests.items():
        assert request.version == kept.answers[name]["version"]
        assert request.route == ("rank" if "ranking" in kept.answers[name] else "predict")
        assert request.time > 1_700_000_000
        assert request.degraded == []


def test_lines_hold_what_was_ranked_as_it_was_answered(kept: Kept) -> None:
    """The candidates of the ranking, in its order, with places, ids and scores; no others."""
    for name in ("rows", "columns", "ids", "own", "all", "empty"):
        ranking = [each for each in kept.answers[name]["ranking"] if each["score"] is not None]
        logged = kept.requests[name].candidates
        assert [each.place for each in logged] == list(range(1, len(ranking) + 1))
        for ranked, candidate in zip(ranking, logged, strict=True):
            assert candidate.id == ranked.get("id")
            assert candidate.index == ranked.get("index")
            assert np.float32(candidate.score) == np.float32(ranked["score"])
    assert len(kept.requests["rows"].candidates) == 5


def test_lines_hold_instances_as_they_were_answered(kept: Kept) -> None:
    """Each instance with its index and score; one whose item is unknown was not scored."""
    for name in ("one", "many", "stored"):
        predictions = kept.answers[name]["predictions"]
        logged = {each.index: each for each in kept.requests[name].candidates}
        assert logged.keys() == {n for n, each in enumerate(predictions) if each is not None}
        for index, candidate in logged.items():
            assert np.float32(candidate.score) == np.float32(predictions[index])


def test_values_are_those_that_were_scored(kept: Kept) -> None:
    """After profile and catalogue: encoded again, each row is what the engine was given."""
    rows = [(request, each) for request in kept.requests.values() for each in request.candidates]
    assert len(rows) > 100
    assert all(encoded(kept, request, each) for request, each in rows)
    context = kept.requests["ids"].context
    assert context["user_id"] == 3
    assert context["unknown"] == "kept"
    assert {"age", "country"} <= context.keys()


def test_logits_and_scores_belong_together(kept: Kept) -> None:
    """The score is the sigmoid of the logit, in float32."""
    for request in kept.requests.values():
        for each in request.candidates:
            assert each.score == pytest.approx(1 / (1 + np.exp(-each.logit)), abs=1e-6)


def test_replay_gives_what_was_served(kept: Kept) -> None:
    """Every logged row has the same encoded values and the same score offline."""
    report = replay([kept.log], kept.bundle.path)
    assert report.requests == len(kept.requests)
    assert report.own.rows == sum(len(each.candidates) for each in kept.requests.values())
    assert report.own.largest <= report.tolerance
    assert not report.skewed
    assert not report.others


def rewritten(kept: Kept, out: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the log in which ``change`` was applied to every request."""
    out.mkdir()
    for path in kept.log.iterdir():
        lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        for line in lines:
            if line["kind"] == "request":
                change(line)
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        (out / path.name).write_bytes(gzip.compress(content))
    return out


def test_replay_names_a_value_that_was_changed(kept: Kept, tmp_path: Path) -> None:
    """A default that something filled in between log and training: the field, and the rows."""

    def fill_price(line: dict[str, Any]) -> None:
        for candidate in line["candidates"]:
            candidate["features"].setdefault("price", 0.0)

    absent = sum(
        "price" not in (candidate.features or {})
        for each in kept.requests.values()
        for candidate in each.candidates
    )
    assert absent > 5
    report = replay([rewritten(kept, tmp_path / "filled", fill_price)], kept.bundle.path)
    assert report.skewed
    assert dict(report.own.fields) == {"price": absent}
    assert report.own.largest > report.tolerance
    assert report.own.unexplained == 0
    worst = max(report.own.examples)
    assert worst.fields == ("price",)
    assert worst.difference == report.own.largest


def test_replay_tells_degraded_and_other_versions_apart(
    kept: Kept, other_bundle: Path, tmp_path: Path
) -> None:
    """Rows that were served without a store, or by another bundle, are no skew of this one."""

    def degrade(line: dict[str, Any]) -> None:
        line["degraded"] = ["profiles"]
        line["context"]["country"] = "xx"

    degraded = replay([rewritten(kept, tmp_path / "degraded", degrade)], kept.bundle.path)
    assert not degraded.skewed
    assert degraded.own.rows == 0
    assert "country" in degraded.degraded.fields
    other = replay([kept.log], other_bundle)
    assert not other.skewed
    assert other.others[kept.bundle.version].largest > 1e-3


def test_replay_counts_values_that_the_bundle_refuses(kept: Kept, tmp_path: Path) -> None:
    """A logged value that is none any more is named by its field, and ends nothing."""

    def spoil(line: dict[str, Any]) -> None:
        line["context"]["age"] = "old"

    report = replay([rewritten(kept, tmp_path / "spoilt", spoil)], kept.bundle.path)
    assert report.skewed
    assert list(report.unreadable) == ["age"]


def test_joined_rows_score_as_they_were_served(kept: Kept, tmp_path: Path) -> None:
    """What join writes is read with the spec as it is: every row has its served score offline."""
    counts = join([kept.log], tmp_path / "rows.parquet", 1.0, time.time() + 60)
    assert counts.rows == sum(len(each.candidates) for each in kept.requests.values())
    assert counts.unusable == []
    offline = Offline.open(kept.bundle.path)
    scored = offline.predict(
        [tmp_path / "rows.parquet"], tmp_path / "scores.parquet", 0.0, ["served_score"]
    )
    assert scored == counts.rows
    frame = pl.read_parquet(tmp_path / "scores.parquet")
    assert frame["score"].to_list() == pytest.approx(frame["served_score"].to_list(), rel=1e-4)
    (tmp_path / "rows.parquet").rename(tmp_path / "clicks.parquet")
    quality = offline.evaluate(offline.frames([tmp_path / "clicks.parquet"]))
    assert (quality.rows, quality.counts.clicks) == (counts.rows, 0)


def test_replay_is_a_command(kept: Kept, tmp_path: Path) -> None:
    """Lines for people, JSON for programs; exit code 3 where something differs."""
    words = ["model", "replay", str(kept.log), "--bundle", str(kept.bundle.path)]
    done = run(*words, "--json", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stderr
    assert "0 rows beyond the tolerance" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["served"]["beyond_tolerance"] == 0

    def fill_price(line: dict[str, Any]) -> None:
        for candidate in line["candidates"]:
            candidate["features"]["price"] = 7.0

    words[2] = str(rewritten(kept, tmp_path / "filled", fill_price))
    done = run(*words)
    assert done.returncode == 3
    assert "fields whose encoded values differ: price" in done.stdout


def test_files_begin_with_their_bundle(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """The names of label and timestamp, so that join needs no spec; then the requests."""
    service = start_service(request_log=tmp_path / "log", request_log_share=1)
    for _ in range(3):
        service.predict(sample.rows[:2])
    service.stop()
    (path,) = (tmp_path / "log").iterdir()
    lines = gzip.decompress(path.read_bytes()).splitlines()
    first, *others = map(json.loads, lines)
    assert first == {
        "kind": "bundle",
        "version": others[0]["version"],
        "label": "click",
        "timestamp": None,
    }
    assert [each["kind"] for each in others] == ["request"] * 3


def test_a_key_chooses_the_same_users_in_all_requests(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """By the key's value: all or none of a user's rows; of a /predict only the chosen instances."""
    service = start_service(
        request_log=tmp_path / "log",
        request_log_share=0.5,
        request_log_key="user_id",
        request_log_omit="country, price",
        workers=2,
    )
    candidates = [{"features": candidate_of(row)} for row in sample.rows[:3]]
    drawn = random.Random(1)
    for _ in range(60):
        users = [drawn.randrange(100) for _ in range(4)]
        context = {**context_of(sample.rows[0]), "user_id": users[0]}
        service.rank(context=context, candidates=candidates)
        rows = [{**row, "user_id": user} for row, user in zip(sample.rows, users, strict=False)]
        service.predict(rows)
        service.predict([{**rows[0], "user_id": str(users[0])}])
    service.stop()
    found = requests_in(tmp_path / "log")
    ranked = {each.context["user_id"] for each in found if each.route == "rank"}
    predicted = {
        int((candidate.features or {})["user_id"])
        for each in found
        if each.route == "predict"
        for candidate in each.candidates
    }
    assert ranked <= predicted
    assert 25 <= len(predicted) <= 75
    for each in found:
        values = [each.context, *(candidate.features or {} for candidate in each.candidates)]
        assert all(not {"country", "price"} & one.keys() for one in values)
    assert len([each for each in found if each.route == "rank"]) < 60


def test_a_share_without_a_key_is_one_of_requests(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """About the share of the requests, chosen by their ids."""
    service = start_service(request_log=tmp_path / "log", request_log_share=0.25)
    for _ in range(200):
        service.predict(sample.rows[:1])
    service.stop()
    assert 25 <= len(requests_in(tmp_path / "log")) <= 80


def test_metrics_tell_of_lines(start_service: StartService, sample: Sample, tmp_path: Path) -> None:
    """Lines and bytes of all workers; nothing dropped."""
    service = start_service(request_log=tmp_path / "log", request_log_share=1, workers=2)
    service.client.headers["connection"] = "close"
    for _ in range(20):
        service.predict(sample.rows[:1])
    wait_until(lambda: service.metrics()["ctr_request_log_lines_total"] == 20, "20 lines")
    metrics = service.metrics()
    assert metrics["ctr_request_log_bytes_total"] > 0
    assert metrics["ctr_request_log_up"] == 1
    dropped = [value for name, value in metrics.items() if "request_log_dropped" in name]
    assert len(dropped) == 3
    assert not any(dropped)


def test_a_killed_worker_leaves_a_file_that_can_be_read(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """What was written is kept; the worker that takes its place closes the file."""
    log = tmp_path / "log"
    service = start_service(request_log=log, request_log_share=1, workers=2)
    service.client.headers["connection"] = "close"
    for _ in range(20):
        service.predict(sample.rows[:1])
    wait_until(lambda: service.metrics()["ctr_request_log_lines_total"] == 20, "20 lines")
    killed = workers_of(service)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not set(workers_of(service)) & set(killed), "other workers")
    service.wait_ready()
    service.predict(sample.rows[:1])
    wait_until(lambda: len(list(log.glob("*.open"))) <= 1, "abandoned files are closed")
    service.stop()
    assert len(requests_in(log)) == 21


def test_a_full_disk_stops_the_log_and_nothing_else(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """Every request is scored, events are refused with 503; both heal once there is room, and what
    was accepted and written before is all there."""
    service = start_service(
        request_log=tmp_path / "log",
        request_log_share=1,
        feedback=tmp_path / "events",
        feedback_key_file=key_file(tmp_path),
    )
    pid = service.process.pid

    def metric(name: str) -> float:
        return service.metrics()[name]

    def lines() -> float:
        return metric("ctr_request_log_lines_total")

    def score_until(holds: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end, what
            assert len(service.predict(sample.rows[:20])) == 20

    told = {"request_id": "r", "index": 1, "label": 1}
    assert send(service, [told]).status_code == 202
    score_until(lambda: lines() >= 5, "lines are written")
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1_000, hard))
    dropped = 'ctr_request_log_dropped_total{reason="disk"}'
    score_until(lambda: metric(dropped) >= 3, "lines are dropped")
    assert metric("ctr_request_log_up") == 0
    refused = send(service, [{**told, "id": "x" * 500}] * 5)
    assert refused.status_code == 503
    assert service.client.get("/ready").status_code == 200
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
    before = lines()
    score_until(lambda: lines() > before + 3, "lines are written again")
    assert metric("ctr_request_log_up") == 1
    assert send(service, [told]).status_code == 202
    written = {
        name: value for name, value in service.metrics().items() if "ctr_requests_total" in name
    }
    assert written['ctr_requests_total{outcome="500",route="predict"}'] == 0
    service.stop()
    assert len(requests_in(tmp_path / "log")) >= before + 3
    assert len(events_in(tmp_path / "events")) == 2


def test_a_directory_that_cannot_be_used_is_told(tiny_bundle: Path, tmp_path: Path) -> None:
    """The service does not start without what it was asked for."""
    (tmp_path / "file").touch()
    ended = run_to_end(tiny_bundle, request_log=tmp_path / "file" / "log")
    assert ended.returncode == 1
    assert "file/log cannot be used: Not a directory" in ended.stderr
