"""The catalogue of a real service through items that a bundle refuses, swaps and full disks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.bundle.bundle import Bundle
from app.catalogue.command import store_command
from app.catalogue.kinds import ITEMS as ITEMS_KIND
from app.store.opening import open_store
from app.store.store import Item
from tests.conftest import StartService
from tests.support.disks import files_limited_to
from tests.support.redis_server import RedisServer
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, strict, wait_until

pytestmark = pytest.mark.e2e
ITEMS = 100
TOLERANCE = 1e-4


def ranked(service: Service, sample: Sample, candidates: Any) -> Any:
    """The answer to a request for candidates."""
    body = {"context": context_of(sample.rows[0]), "candidates": candidates}
    answer = service.client.post("/rank", json=body)
    assert answer.status_code == 200, answer.text
    return strict(answer.content)


def scores(answer: Any) -> dict[Any, float]:
    return {each["id"]: each["score"] for each in answer["ranking"]}


def test_a_tenth_of_the_items_is_refused(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """They are unknown, counted and named; the others are served, from the start and by changes."""
    url = f"sqlite://{tmp_path / 'items.db'}"
    wrong = range(0, ITEMS, 10)
    with closing(open_store(url, create=True)) as store:
        items = [Item(n, candidate_of(row)) for n, row in enumerate(sample.rows[:ITEMS])]
        store.put(items)
        store.put(Item(n, {"price": "dear"}) for n in wrong)
        service = start_service(store=url)
        ready = service.wait_ready()
        told = ready["catalogue"]
        assert (told["items"], told["refused_items"], told["problem"]) == (90, 10, None)
        assert ready["degraded"] == []
        assert service.metrics()["ctr_catalogue_refused_items"] == 10
        service.wait_told("is left out", 5)
        lines = [each["message"] for each in service.events() if "is left out" in each["message"]]
        assert len(lines) == 5
        assert all("price: expected a number, got text" in each for each in lines)
        left = set(range(ITEMS)) - set(wrong)
        assert set(scores(ranked(service, sample, {"all": True}))) == left
        answer = ranked(service, sample, {"ids": [9, 10, 11]})
        assert (set(scores(answer)), answer["unknown"]) == ({9, 11}, {"total": 1, "ids": [10]})
        store.put([items[10]])
        wait_until(lambda: service.wait_ready()["catalogue"]["items"] == 91, "one is repaired")
        assert set(scores(ranked(service, sample, {"ids": [9, 10, 11]}))) == {9, 10, 11}


@contextmanager
def changing(url: str) -> Iterator[dict[int, dict[str, Any]]]:
    """Let items change all the time; yield their values, which are the last ones in the end."""
    values: dict[int, dict[str, Any]] = {}
    ended = threading.Event()

    def change() -> None:
        with closing(open_store(url)) as store:
            turn = 0
            while not ended.is_set():
                turn += 1
                some = {n: {"price": (7 * turn + n) % 60} for n in range(turn % 3, ITEMS, 3)}
                store.put(Item(*each) for each in some.items())
                values.update(some)

    writer = threading.Thread(target=change)
    writer.start()
    try:
        yield values
    finally:
        ended.set()
        writer.join()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_no_change_is_lost_when_the_bundle_is_swapped(
    start_service: StartService,
    bundles: Path,
    other_bundle: Path,
    sample: Sample,
    valkey: RedisServer,
    tmp_path: Path,
    kind: str,
) -> None:
    """While items change without a pause; in the end every score is that of the last values."""
    url = f"sqlite://{tmp_path / 'items.db'}" if kind == "sqlite" else valkey.url
    with closing(open_store(url, create=True)) as store:
        store.put(Item(n, {}) for n in range(ITEMS))
    service = start_service(bundles, store=url, bundle_poll_seconds=0.1)
    later = Bundle.open(other_bundle).version
    with changing(url) as values:
        (bundles / other_bundle.name).symlink_to(other_bundle)
        wait_until(
            lambda: ranked(service, sample, {"all": True})["version"] == later,
            "the other bundle serves", 30.0,
        )  # fmt: skip
    sent = [{"id": n, "features": each} for n, each in values.items()]
    assert len(sent) == ITEMS
    expected = scores(ranked(service, sample, sent))

    def same() -> bool:
        found = scores(ranked(service, sample, {"all": True}))
        return found == pytest.approx(expected, rel=TOLERANCE)

    wait_until(same, "the last values are used")
    assert service.wait_ready()["catalogue"]["problem"] is None


def test_a_full_disk_stores_nothing_by_halves(
    start_service: StartService,
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command says so; what was there is served, and the next command has room again."""
    url = f"sqlite://{tmp_path / 'items.db'}"
    with closing(open_store(url, create=True)) as store:
        store.put(Item(n, {}) for n in range(10))
    service = start_service(store=url)
    lines = tmp_path / "more.jsonl"
    more = [Item(n, {"title": "x" * 500}) for n in range(2_000)]
    lines.write_text(
        "".join(json.dumps({"id": each.id, "features": each.values}) + "\n" for each in more)
    )
    with files_limited_to(2**19):
        command = ["put", str(lines), "--bundle", str(tiny_bundle), "--store", url]
        assert store_command(ITEMS_KIND, command) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert str(tmp_path / "items.db") in told
    with closing(open_store(url)) as store:
        stored = store.count()
        assert stored in (10, 1_000)
        wait_until(lambda: service.wait_ready()["catalogue"]["items"] == stored, "it is served")
        store.put(more)
    wait_until(lambda: service.wait_ready()["catalogue"]["items"] == 2_000, "the rest is there")
