"""Another bundle takes the place of the one in use, or is refused, and no caller notices."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle.bundle import Bundle
from app.bundle.directory import CURRENT
from app.bundle.manifest import EXAMPLES, MANIFEST
from app.remote.redis_layout import in_use
from tests.conftest import PATIENT_MS, StartService
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.serving import Service, strict, wait_until, workers_of
from tests.support.starting import start
from tests.support.swaps import POLL, Traffic, arrive, serves, sign, version_of
from tests.support.vocabularies import publish_now

pytestmark = pytest.mark.e2e
FROM_REDIS = {
    "vocabulary_fallback": "reject", "vocabulary_cache": 20, "redis_timeout_ms": PATIENT_MS,
}  # fmt: skip
"""Values come from nowhere else; on a busy machine they may come late."""


def replaced(service: Service, killed: int) -> Callable[[], bool]:
    return lambda: len(set(workers_of(service)) - {killed}) == 2


def keys_in(server: RedisServer) -> int:
    """The number of keys that a Redis holds."""
    return int(server.command("DBSIZE").removeprefix(":"))


def looked_for(server: RedisServer, bundle: Path) -> Callable[[], bool]:
    """Check whether a service has looked for a bundle's vocabulary, which it marks as in use."""
    mark = in_use(Bundle.open(bundle).manifest.vocabulary_hash)
    return lambda: server.command("EXISTS", mark) == ":1"


@pytest.mark.parametrize("workers", [1, 3])
def test_a_new_bundle_is_served_and_rolled_back(
    start_service: StartService, bundles: Path, tiny_bundle: Path, other_bundle: Path,
    rows: list[Any], expected: dict[str, list[float]], workers: int,
) -> None:  # fmt: skip
    """Every answer is wholly by the version that it names; each client sees each change once."""
    service = start_service(bundles, workers=workers, **POLL)
    with Traffic(service, rows, expected) as traffic:
        traffic.wait_for(tiny_bundle)
        arrive(other_bundle, bundles)
        traffic.wait_for(other_bundle)
        (bundles / CURRENT).write_text(tiny_bundle.name)
        traffic.wait_for(tiny_bundle)
        (bundles / CURRENT).unlink()
        traffic.wait_for(other_bundle)
        traffic.wait_answers()
    assert traffic.problems == []
    assert set(traffic.seen) == {tiny_bundle.name, other_bundle.name}
    changes = [tiny_bundle.name, other_bundle.name] * 2
    assert traffic.order == [changes] * 4
    metrics = service.metrics()
    (info,) = (name for name in metrics if name.startswith("ctr_bundle_info"))
    assert other_bundle.name in info
    assert metrics['ctr_requests_total{outcome="200",route="predict"}'] == traffic.seen.total()
    assert metrics["ctr_refused_bundles_total"] == 0
    wait_until(
        lambda: service.metrics()["ctr_rows_total"] == traffic.seen.total(),
        "rows of every bundle are counted, of runs beside a change too",
    )
    assert service.metrics()[f'ctr_score_count{{version="{other_bundle.name}"}}'] > 0


def test_a_bundle_that_is_not_whole_is_refused_until_it_is(
    start_service: StartService, bundles: Path, tiny_bundle: Path, other_bundle: Path,
    rows: list[Any], expected: dict[str, list[float]],
) -> None:  # fmt: skip
    """OPEN-27: half a graph, another export's vocabulary, a cut file; then the good one."""
    service = start_service(bundles, **POLL)
    place = bundles / other_bundle.name

    def refused(reason: str) -> Callable[[], bool]:
        def holds() -> bool:
            shown = strict(service.client.get("/ready").content)
            assert shown["version"] == tiny_bundle.name
            return reason in (shown["refused_bundle"] or "")

        return holds

    with Traffic(service, rows, expected) as traffic:
        graph = (other_bundle / "score.onnx").read_bytes()
        # At no moment it is whole: the service may look at any.
        shutil.copytree(other_bundle, place, ignore=shutil.ignore_patterns("score.onnx"))
        (place / "score.onnx").write_bytes(graph[: len(graph) // 2])
        wait_until(refused("score.onnx has"), "half a graph is refused", 30)
        shutil.rmtree(place / "vocabulary")
        shutil.copytree(tiny_bundle / "vocabulary", place / "vocabulary")
        (place / "score.onnx").write_bytes(graph)
        wait_until(refused("vocabulary/"), "another vocabulary is refused", 30)
        (place / "examples.jsonl").write_bytes(b"")
        shutil.rmtree(place / "vocabulary")
        shutil.copytree(other_bundle / "vocabulary", place / "vocabulary")
        wait_until(refused("examples.jsonl has 0 bytes"), "a cut file is refused", 30)
        shutil.copy(other_bundle / "examples.jsonl", place / "examples.jsonl")
        wait_until(serves(service, other_bundle), "the whole one is served", 30)
    assert traffic.problems == []
    assert service.metrics()["ctr_refused_bundles_total"] >= 3
    assert strict(service.client.get("/ready").content)["refused_bundle"] is None
    told = [e["message"] for e in service.events() if e["level"] == "error"]
    assert all("is refused: " in message for message in told)
    assert not any("traceback" in event for event in service.events())


def test_golden_examples_that_do_not_come_out_are_refused(
    start_service: StartService, bundles: Path, tiny_bundle: Path, other_bundle: Path
) -> None:
    """A bundle whose hashes agree but whose scores do not: the old one keeps serving."""
    service = start_service(bundles, **POLL)
    changed = bundles / ".changed"
    shutil.copytree(other_bundle, changed)
    first, *others = (other_bundle / EXAMPLES).read_text().splitlines()
    example = json.loads(first)
    example["logits"] = [logit + 1 for logit in example["logits"]]
    (changed / EXAMPLES).write_text("\n".join([json.dumps(example), *others]))
    sign(changed)
    changed.rename(bundles / other_bundle.name)

    def refused() -> bool:
        shown = strict(service.client.get("/ready").content)
        assert shown["version"] == tiny_bundle.name
        return "golden example 1 scores 1 away" in (shown["refused_bundle"] or "")

    wait_until(refused, "it is refused", 30)
    assert service.metrics()["ctr_refused_bundles_total"] == 1


def test_the_vocabulary_in_redis_changes_too(
    start_service: StartService, valkey: RedisServer, bundles: Path, tiny_bundle: Path,
    other_bundle: Path, rows: list[Any], expected: dict[str, list[float]],
) -> None:  # fmt: skip
    """A bundle is served once its vocabulary is published; until then the old one is."""
    publish_now(valkey.url, tiny_bundle)
    service = start_service(bundles, redis_url=valkey.url, **FROM_REDIS, **POLL)
    with Traffic(service, rows, expected) as traffic:
        arrive(other_bundle, bundles)
        wait_until(looked_for(valkey, other_bundle), "its vocabulary is looked for", 30)
        traffic.wait_answers()
        assert version_of(service) == tiny_bundle.name
        publish_now(valkey.url, other_bundle)
        wait_until(serves(service, other_bundle), "the new bundle is served", 60)
        traffic.wait_answers()
    assert traffic.problems == []
    assert set(traffic.seen) == {tiny_bundle.name, other_bundle.name}


def test_a_publisher_that_is_killed_changes_nothing(
    start_service: StartService, valkey: RedisServer, bundles: Path, tiny_bundle: Path,
    other_bundle: Path, rows: list[Any], expected: dict[str, list[float]],
) -> None:  # fmt: skip
    """SIGKILL in the midst of publishing a new vocabulary: the old one goes on, its bundle too; the
    command repeated completes the new one, and that is served.
    """
    publish_now(valkey.url, tiny_bundle)
    held = keys_in(valkey)
    service = start_service(bundles, redis_url=valkey.url, **FROM_REDIS, **POLL)
    with Traffic(service, rows, expected) as traffic:
        with Proxy(valkey.port, holds=lambda: keys_in(valkey) > held) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}"
            words = [sys.executable, "-m", "model", "publish", str(other_bundle), "--redis", url]
            publisher = start(words, os.environ, None, None)
            wait_until(lambda: keys_in(valkey) > held, "half-way", 60)
            publisher.kill()
            assert publisher.wait(60) == -signal.SIGKILL
        arrive(other_bundle, bundles)
        wait_until(looked_for(valkey, other_bundle), "its vocabulary is looked for", 30)
        traffic.wait_answers()
        assert version_of(service) == tiny_bundle.name
        publish_now(valkey.url, other_bundle)
        traffic.wait_for(other_bundle)
    assert traffic.problems == []
    assert set(traffic.seen) == {tiny_bundle.name, other_bundle.name}


def test_swaps_leave_no_descriptors_behind(
    start_service: StartService, valkey: RedisServer, bundles: Path, tiny_bundle: Path,
    other_bundle: Path,
) -> None:  # fmt: skip
    """With the vocabulary in Redis each bundle maps files of its own, and lets go of them."""
    publish_now(valkey.url, tiny_bundle)
    publish_now(valkey.url, other_bundle)
    service = start_service(bundles, redis_url=valkey.url, **POLL)
    arrive(other_bundle, bundles)
    wait_until(serves(service, other_bundle), "the new bundle is served", 60)

    def mapped() -> list[str]:
        lines = Path(f"/proc/{service.process.pid}/maps").read_text().splitlines()
        return sorted({line.split()[-1] for line in lines if line.endswith(".npy")})

    for bundle in (tiny_bundle, other_bundle, tiny_bundle):
        (bundles / CURRENT).write_text(bundle.name)
        wait_until(serves(service, bundle), f"{bundle.name} is served", 60)
    wait_until(
        lambda: all(tiny_bundle.name in name for name in mapped()),
        "nothing of the other bundle is mapped",
        30,
    )
    assert mapped()


def test_quick_swaps_keep_few_engines(
    start_service: StartService, bundles: Path, tiny_bundle: Path, other_bundle: Path
) -> None:
    """However long requests may take, idle engines end: threads are those of one engine again."""
    service = start_service(bundles, engine_threads=3, **{**POLL, "deadline_ms": 3_600_000})
    arrive(other_bundle, bundles)
    wait_until(serves(service, other_bundle), "the new bundle is served", 60)
    threads = service.threads()
    for bundle in (tiny_bundle, other_bundle) * 4:
        (bundles / CURRENT).write_text(bundle.name)
        wait_until(serves(service, bundle), f"{bundle.name} is served", 60)
    wait_until(lambda: service.threads() <= threads + 1, "the old engines' threads end", 30)


def test_a_worker_that_is_replaced_serves_what_the_others_serve(
    start_service: StartService, bundles: Path, tiny_bundle: Path, other_bundle: Path
) -> None:
    """Not the newest that was refused, nor what was there when the service started."""
    service = start_service(bundles, workers=2, **POLL)
    arrive(other_bundle, bundles)
    service.client.headers["connection"] = "close"
    wait_until(serves(service, other_bundle), "the new bundle is served", 60)
    broken = bundles / "29990101T000000Z-0123456789ab"
    shutil.copytree(other_bundle, bundles / ".broken")
    manifest = json.loads((bundles / ".broken" / MANIFEST).read_bytes())
    manifest["created"] = "2999-01-01T00:00:00+00:00"
    (bundles / ".broken" / MANIFEST).write_text(json.dumps(manifest))
    (bundles / ".broken" / "score.onnx").unlink()
    (bundles / ".broken").rename(broken)
    wait_until(lambda: service.log().count("is refused") == 2, "both workers refuse it", 60)
    assert service.metrics()["ctr_refused_bundles_total"] == 1
    for _ in range(2):
        killed = workers_of(service)[0]
        os.kill(killed, signal.SIGKILL)
        wait_until(replaced(service, killed), "it is replaced", 30)
        assert {version_of(service) for _ in range(20)} == {other_bundle.name}
