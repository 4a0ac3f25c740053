"""Feedback: an event that was answered 202 is on the disk, and counts exactly once."""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.metrics.bundle import SCORE_BUCKETS
from tests.conftest import StartService
from tests.support.feedback import HEADERS, KEY, events_in, key_file, send
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, run_to_end, strict, wait_until, workers_of

pytestmark = pytest.mark.e2e
SUMS = ("labels", "clicks", "predicted", "log_loss")


@pytest.fixture
def service(start_service: StartService, tmp_path: Path) -> Service:
    """A service of two workers that takes events."""
    return start_service(
        feedback=tmp_path / "events", feedback_key_file=key_file(tmp_path), workers=2
    )


def event(**values: Any) -> dict[str, Any]:
    return {"request_id": "r-1", "index": 0, "label": 1, **values}


def sums(service: Service) -> dict[str, dict[str, float]]:
    """The sums of each version, over all bins of the score."""
    service.client.headers["connection"] = "close"
    found: dict[str, dict[str, float]] = {}
    for name, value in service.metrics().items():
        for each in SUMS:
            if name.startswith(f"ctr_feedback_{each}_total"):
                version = name.split('version="')[1].split('"')[0]
                of_version = found.setdefault(version, dict.fromkeys(SUMS, 0.0))
                of_version[each] += value
    return found


def test_without_keys_and_directory_there_is_no_endpoint(
    start_service: StartService, tmp_path: Path
) -> None:
    """404, and nothing of it in the OpenAPI document; also with a directory alone."""
    for settings in ({}, {"feedback": tmp_path / "events"}):
        found = start_service(**settings)
        assert send(found, [event()]).status_code == 404
        assert "/feedback" not in found.client.get("/openapi.json").json()["paths"]
        assert not any("ctr_feedback" in name for name in found.metrics())


def test_only_holders_of_a_key_may_send(service: Service, tmp_path: Path) -> None:
    """401 without a key, or with another one; nothing is kept."""
    for authorization in ("", "Bearer wrong", f"Basic {KEY}", KEY):
        answer = send(service, [event()], authorization=authorization)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "unauthorized"
    assert events_in(tmp_path / "events") == []


def test_wrong_events_are_named_and_the_others_taken(service: Service, tmp_path: Path) -> None:
    """Each rule of an event, broken once; the answer names the first ten."""
    wrong: list[tuple[str, Any]] = [
        ("", 3),
        ("", {"index": 1, "label": 1}),
        (".request_id", event(request_id="")),
        (".request_id", event(request_id="x" * 129)),
        (".index", event(index=-1)),
        (".index", event(index="3")),
        (".label", event(label=2)),
        (".label", event(label=True)),
        (".score", event(score=1.5)),
        (".time", event(time="yesterday")),
        (".id", event(id="x" * 513)),
        (".shown", event(shown=1)),
        ("", {"request_id": "r", "label": 1}),
        ("", {"request_id": "r", "index": 1}),
    ]
    right = [event(index=n, more="ignored") for n in range(3)]
    sent = [each for _, each in wrong]
    answer = send(service, [*sent, *right])
    assert answer.status_code == 202
    body = answer.json()
    assert (body["accepted"], body["wrong"]) == (3, len(wrong))
    expected = [f"events[{n}]{path}" for n, (path, _) in enumerate(wrong)]
    assert [each["path"] for each in body["details"]] == expected[:10]
    last = send(service, sent[10:])
    assert last.status_code == 422
    assert [each["path"] for each in last.json()["error"]["details"]] == [
        f"events[{n}]{path}" for n, (path, _) in enumerate(wrong[10:])
    ]
    assert [each.event.index for each in events_in(tmp_path / "events")] == [0, 1, 2]
    metrics = service.metrics()
    assert metrics['ctr_feedback_events_total{outcome="accepted"}'] == 3
    assert metrics['ctr_feedback_events_total{outcome="wrong"}'] == len(wrong) + 4


def test_bodies_that_are_none_are_refused(service: Service) -> None:
    """Clear errors, never 500; an empty list is no error."""
    client = service.client
    bodies = {b"no json": 400, b"[]": 422, b'{"events": 3}': 422, b"\xff\xfe": 400}
    bodies[b'{"events": [' + b'{"request_id": NaN},' * 2 + b"{}]}"] = 422
    bodies[b'{"events": [' + b"{}," * 10_000 + b"{}]}"] = 413
    for body, status in bodies.items():
        answer = client.post("/feedback", content=body, headers=HEADERS)
        assert answer.status_code == status, answer.text
        assert strict(answer.content)["error"]["message"]
    empty = send(service, [])
    assert (empty.status_code, empty.json()) == (202, {"accepted": 0})


def test_calibration_is_counted_exactly_over_all_workers(
    service: Service, sample: Sample, tmp_path: Path
) -> None:
    """Predicted and observed sum and log loss of a version, in bins, whichever worker was told;
    a version that was never served is other; shown events and those without a score count not."""
    version = service.wait_ready()["version"]
    drawn = random.Random(3)
    context = context_of(sample.rows[0])
    candidates = [{"features": candidate_of(row)} for row in sample.rows[:50]]
    ranked = service.rank(context=context, candidates=candidates)
    labelled = [(each["score"], drawn.randrange(2)) for each in ranked for _ in range(4)]
    labelled += [(score, 1) for score in (0.0, 1.0, 1e-5, 0.02, 0.95)]
    drawn.shuffle(labelled)
    told = [event(score=score, label=label, version=version) for score, label in labelled]
    others = [event(score=0.5, label=0, version=f"made-up-{n}") for n in range(5)]
    silent: list[Any] = [event(), event(version=version), event(score=0.5)]
    silent.append({"request_id": "r", "index": 1, "shown": True, "version": version, "score": 0.1})
    every = [*told, *others, *silent]
    drawn.shuffle(every)

    async def tell() -> None:
        async with httpx.AsyncClient(
            base_url=service.url,
            headers={**HEADERS, "connection": "close"},
            trust_env=False,
            timeout=60,
        ) as client:
            parts = [every[start : start + 7] for start in range(0, len(every), 7)]
            answers = await asyncio.gather(
                *(client.post("/feedback", json={"events": part}) for part in parts)
            )
            assert {each.status_code for each in answers} == {202}

    asyncio.run(tell())
    found = sums(service)
    assert found.keys() == {version, "other"}
    bounded = [(min(max(score, 1e-7), 1 - 1e-7), label) for score, label in labelled]
    expected = {
        "labels": len(labelled),
        "clicks": sum(label for _, label in labelled),
        "predicted": sum(score for score, _ in labelled),
        "log_loss": sum(-math.log(s if label else 1 - s) for s, label in bounded),
    }
    assert found[version] == pytest.approx(expected, rel=1e-9)
    assert found["other"]["labels"] == 5
    metrics = service.metrics()
    bounds = [*map(str, SCORE_BUCKETS), "1.0"]
    places = np.searchsorted(SCORE_BUCKETS, [score for score, _ in labelled])
    assert [
        metrics[f'ctr_feedback_labels_total{{up_to="{bound}",version="{version}"}}']
        for bound in bounds
    ] == np.bincount(places, minlength=len(bounds)).tolist()
    assert len(events_in(tmp_path / "events")) == len(every)


def test_events_of_yesterdays_version_count_by_its_name(
    start_service: StartService, tiny_bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    """The service remembers across a restart what it has served."""
    settings = {"feedback": tmp_path / "events", "feedback_key_file": key_file(tmp_path)}
    first = start_service(tiny_bundle, **settings)
    served = first.wait_ready()["version"]
    first.stop()
    second = start_service(other_bundle, **settings, workers=2)
    told = event(score=0.5, version=served)
    for _ in range(10):
        assert send(second, [told], **HEADERS, connection="close").status_code == 202
    assert sums(second)[served]["labels"] == 10


def test_a_full_budget_refuses_and_deletes_nothing(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """503 with Retry-After; what was kept stays, scores are given, new room is used."""
    service = start_service(
        feedback=tmp_path / "events", feedback_key_file=key_file(tmp_path), feedback_bytes=4096
    )
    accepted = 0
    while (answer := send(service, [event(id="x" * 100)] * 5)).status_code == 202:
        accepted += 5
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "60"
    assert answer.json()["error"]["code"] == "events_unwritten"
    kept = events_in(tmp_path / "events")
    assert len(kept) == accepted
    assert service.metrics()['ctr_feedback_events_total{outcome="unwritten"}'] == 5
    assert len(service.predict(sample.rows[:3])) == 3
    for path in (tmp_path / "events").glob("events-*"):
        path.unlink()
    assert send(service, [event()]).status_code == 202
    assert len(events_in(tmp_path / "events")) == 1


def test_no_accepted_event_is_lost_when_workers_are_killed(
    start_service: StartService, tmp_path: Path
) -> None:
    """kill -9 of every worker, again and again, while events come: each that was answered 202 is
    in the files, and none of them twice."""
    service = start_service(
        feedback=tmp_path / "events", feedback_key_file=key_file(tmp_path), workers=2
    )
    accepted: list[str] = []
    sent = iter(range(1_000_000))

    async def tell(client: httpx.AsyncClient, kills: asyncio.Event) -> None:
        while not kills.is_set():
            names = [f"r-{next(sent)}" for _ in range(3)]
            try:
                answer = await client.post(
                    "/feedback", json={"events": [event(request_id=name) for name in names]}
                )
            except httpx.HTTPError:
                continue
            if answer.status_code == 202:
                accepted.extend(names)

    async def enough(events: int) -> None:
        while len(accepted) < events:  # noqa: ASYNC110 - of eight tasks, whichever comes last
            await asyncio.sleep(0.01)

    async def drive() -> None:
        over = asyncio.Event()
        async with httpx.AsyncClient(
            base_url=service.url,
            headers={**HEADERS, "connection": "close"},
            trust_env=False,
            timeout=60,
        ) as client:
            telling = [asyncio.create_task(tell(client, over)) for _ in range(8)]
            for kills in range(5):
                await enough(60 * (kills + 1))
                for pid in workers_of(service):
                    os.kill(pid, signal.SIGKILL)
            await enough(360)
            over.set()
            await asyncio.gather(*telling)

    asyncio.run(asyncio.wait_for(drive(), 120))
    service.stop()
    kept = Counter(each.event.request_id for each in events_in(tmp_path / "events"))
    assert len(accepted) >= 360
    assert set(accepted) <= kept.keys()
    assert set(kept.values()) == {1}


def test_a_caller_that_leaves_is_no_error(service: Service) -> None:
    """Half a body, and the connection is gone: nothing is kept, and the log has no traceback."""
    head = f"POST /feedback HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", service.port)) as caller:
            caller.sendall(f"{head}content-length: 1000\r\n\r\n{{".encode())
    assert send(service, [event()]).status_code == 202
    service.stop()
    assert not [each for each in service.events() if each["level"] == "error"]


def test_keys_that_cannot_be_used_are_told(tiny_bundle: Path, tmp_path: Path) -> None:
    """The service does not start without the keys that it was given."""
    ended = run_to_end(
        tiny_bundle, feedback=tmp_path / "events", feedback_key_file=tmp_path / "absent"
    )
    assert ended.returncode == 1
    assert "absent cannot be read" in ended.stderr


def test_events_gather_into_few_syncs(service: Service, tmp_path: Path) -> None:
    """Callers that come together wait for one sync, not each for its own."""

    async def tell() -> None:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(
            base_url=service.url, headers=HEADERS, limits=limits, trust_env=False, timeout=30
        ) as client:
            sent = (client.post("/feedback", json={"events": [event()]}) for _ in range(200))
            assert {each.status_code for each in await asyncio.gather(*sent)} == {202}

    asyncio.run(tell())
    wait_until(lambda: len(events_in(tmp_path / "events")) == 200, "all events")
    assert len(list((tmp_path / "events").glob("events-*"))) <= 2
