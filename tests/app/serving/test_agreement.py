"""Workers tell each other which bundle they have prepared, serve or have refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.errors import BundleError
from app.serving import agreement
from app.serving.agreement import Agreement
from app.serving.versions import Attempt
from app.workers.shared_numbers import SharedNumbers

pytestmark = pytest.mark.anyio
ATTEMPT = Attempt(Path("bundles/new"), (("manifest.json", 1, 2),), 0)
OLD, NEW = 0xA, 0xB


def two_workers() -> tuple[SharedNumbers, Agreement, Agreement]:
    """The agreement as each of two workers has it."""
    shared = SharedNumbers(2)
    first = Agreement(shared)
    shared.begin_worker(1)
    return shared, first, Agreement(shared)


async def test_it_waits_until_all_have_prepared_the_same() -> None:
    """None serves another bundle before all could."""
    _, first, second = two_workers()
    first.prepare(NEW)
    waiting = asyncio.create_task(first.wait(ATTEMPT))
    await asyncio.sleep(0)
    assert not waiting.done()
    second.prepare(NEW)
    await waiting


async def test_a_refusal_ends_the_waiting_of_the_others() -> None:
    """One worker that cannot serve it is enough."""
    _, first, second = two_workers()
    first.prepare(NEW)
    second.refuse(ATTEMPT, OLD)
    with pytest.raises(BundleError, match="another worker cannot serve it"):
        await first.wait(ATTEMPT)


async def test_an_old_refusal_is_not_one_of_this_attempt() -> None:
    """The same bundle with other files is another attempt."""
    _, first, second = two_workers()
    second.refuse(ATTEMPT._replace(files=()), OLD)
    first.prepare(NEW)
    second.prepare(NEW)
    await first.wait(ATTEMPT)


async def test_a_worker_that_is_never_done_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a while the bundle is refused, until another attempt."""
    monkeypatch.setattr(agreement, "AGREE_SECONDS", 0.05)
    _, first, _ = two_workers()
    first.prepare(NEW)
    with pytest.raises(BundleError, match="not able to serve it yet"):
        await first.wait(ATTEMPT)


def test_it_is_reached_when_all_serve_the_same() -> None:
    """An activation has succeeded when the last worker has swapped."""
    _, first, second = two_workers()
    first.serve(NEW)
    assert not first.reached(NEW)
    second.serve(NEW)
    assert first.reached(NEW)
    assert not first.reached(NEW + 1), "all still serve the same one, the one before"


def test_a_successor_serves_what_was_prepared_not_the_newest(tmp_path: Path) -> None:
    """Before the first start there is nothing to succeed to."""
    shared, first, second = two_workers()
    for name in ("20260101T000000Z-00000000000a", "20260102T000000Z-00000000000b"):
        (tmp_path / name).mkdir()
    first.prepare(OLD)
    second.prepare(OLD)
    assert second.in_use(tmp_path) is None
    for worker in (0, 1):
        shared.begin_worker(worker)
        shared.set_ready()
    assert second.in_use(tmp_path) == tmp_path / "20260101T000000Z-00000000000a"
    assert second.in_use(tmp_path / "20260101T000000Z-00000000000a" / "file") is None
