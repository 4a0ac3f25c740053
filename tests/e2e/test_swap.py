"""Another bundle takes the place of the one in use, or is refused, and no caller notices."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.bundle import CURRENT, EXAMPLES, MANIFEST, FileRecord, bundle_id
from tests.conftest import StartService
from tests.redis_server import RedisServer
from tests.samples import Sample
from tests.serving import Service, strict, wait_until, workers_of
from tests.vocabularies import publish_now

pytestmark = pytest.mark.e2e

POLL = {"bundle_poll_seconds": 0.1, "deadline_ms": 500}
COMPANY = 1e-6


class Traffic:
    """Requests from a few threads; every answer's score is that of the version it names."""

    def __init__(self, service: Service, rows: list[Any], expected: dict[str, list[float]]) -> None:
        self.service, self.rows, self.expected = service, rows, expected
        self.seen: Counter[str] = Counter()
        self.order: list[list[str]] = []
        self.problems: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(4)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, version: Path) -> None:
        """Wait until every client was last answered by a version."""
        wait_until(
            lambda: [versions[-1:] for versions in self.order] == [[version.name]] * 4,
            f"{version.name} answers every client",
            60,
        )

    def _ask(self, number: int) -> None:
        versions: list[str] = []
        self.order.append(versions)
        with httpx.Client(base_url=self.service.url, timeout=30, trust_env=False) as client:
            while not self._over.is_set():
                number = (number + 1) % len(self.rows)
                try:
                    answer = client.post("/predict", json={"instances": [self.rows[number]]})
                    found = strict(answer.content)
                    version = found["version"]
                    away = abs(found["predictions"][0] - self.expected[version][number])
                except Exception as error:
                    self.problems.append(repr(error))
                    continue
                if answer.status_code != 200 or away > COMPANY:
                    self.problems.append(f"{answer.status_code}, {away} away, {version}")
                self.seen[version] += 1
                if versions[-1:] != [version]:
                    versions.append(version)


@pytest.fixture(scope="module")
def rows(sample: Sample) -> list[Any]:
    return sample.rows[:50]


@pytest.fixture(scope="module")
def expected(
    start_service: StartService, tiny_bundle: Path, other_bundle: Path, rows: list[Any]
) -> dict[str, list[float]]:
    """The scores of the rows by each bundle, out of services that only know that one."""
    found = {each.name: start_service(each).predict(rows) for each in (tiny_bundle, other_bundle)}
    first, second = found.values()
    assert first != pytest.approx(second, abs=1e-3)
    return found


@pytest.fixture
def bundles(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A directory that holds the older bundle."""
    shutil.copytree(tiny_bundle, tmp_path / tiny_bundle.name)
    return tmp_path


def version_of(service: Service) -> str:
    return str(strict(service.client.get("/ready").content)["version"])


def serves(service: Service, version: Path) -> Callable[[], bool]:
    return lambda: version_of(service) == version.name


def replaced(service: Service, killed: int) -> Callable[[], bool]:
    return lambda: len(set(workers_of(service)) - {killed}) == 2


def arrive(bundle: Path, directory: Path) -> None:
    """Put a bundle into a directory at once, as the trainer does."""
    hidden = directory / f".{bundle.name}"
    shutil.copytree(bundle, hidden)
    hidden.rename(directory / bundle.name)


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
        time.sleep(2)
    assert traffic.problems == []
    assert set(traffic.seen) == {tiny_bundle.name, other_bundle.name}
    changes = [tiny_bundle.name, other_bundle.name] * 2
    assert traffic.order == [changes] * 4
    metrics = service.metrics()
    (info,) = (name for name in metrics if name.startswith("ctr_bundle_info"))
    assert other_bundle.name in info
    assert metrics['ctr_requests_total{outcome="200",route="predict"}'] == traffic.seen.total()
    assert metrics["ctr_refused_bundles_total"] == 0


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
        shutil.copytree(other_bundle, place)
        (place / "score.onnx").write_bytes(graph[: len(graph) // 2])
        wait_until(refused("score.onnx has"), "half a graph is refused", 30)
        shutil.rmtree(place / "vocabulary")
        shutil.copytree(tiny_bundle / "vocabulary", place / "vocabulary")
        (place / "score.onnx").write_bytes(graph)
        wait_until(refused("vocabulary/"), "another vocabulary is refused", 30)
        shutil.rmtree(place / "vocabulary")
        shutil.copytree(other_bundle / "vocabulary", place / "vocabulary")
        (place / "examples.jsonl").write_bytes(b"")
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


def sign(bundle: Path) -> None:
    """Write a manifest whose hashes are those of the files."""
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    for name in manifest["files"]:
        data = (bundle / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    records = {name: FileRecord(**record) for name, record in manifest["files"].items()}
    manifest["id"] = bundle_id(records)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def test_the_vocabulary_in_redis_changes_too(
    start_service: StartService, valkey: RedisServer, bundles: Path, tiny_bundle: Path,
    other_bundle: Path, rows: list[Any], expected: dict[str, list[float]],
) -> None:  # fmt: skip
    """A bundle is served once its vocabulary is published; until then the old one is."""
    publish_now(valkey.url, tiny_bundle)
    service = start_service(
        bundles, redis_url=valkey.url, vocabulary_fallback="reject", vocabulary_cache=20, **POLL
    )
    with Traffic(service, rows, expected) as traffic:
        arrive(other_bundle, bundles)
        time.sleep(2)
        assert version_of(service) == tiny_bundle.name
        publish_now(valkey.url, other_bundle)
        wait_until(serves(service, other_bundle), "the new bundle is served", 60)
        time.sleep(2)
    assert traffic.problems == []
    assert set(traffic.seen) == {tiny_bundle.name, other_bundle.name}


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
    wait_until(lambda: service.metrics()["ctr_refused_bundles_total"] == 2, "it is refused", 30)
    for _ in range(2):
        killed = workers_of(service)[0]
        os.kill(killed, signal.SIGKILL)
        wait_until(replaced(service, killed), "it is replaced", 30)
        assert {version_of(service) for _ in range(20)} == {other_bundle.name}
