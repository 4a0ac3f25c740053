"""Another bundle takes the place of the one in use, in all workers or in none."""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from app.errors import BundleError
from app.rollout.state_file import ROLLOUT, Ended, Rollout, change_rollout, read_rollout
from app.serving import swap
from app.serving.agreement import Agreement
from app.serving.loading import Loaded
from app.serving.swap import complete
from app.serving.versions import Attempt
from app.workers.shared_numbers import SharedNumbers
from tests.support.serving_parts import held_up, parts, swapper
from tests.support.turns import until

pytestmark = pytest.mark.anyio


async def test_a_later_bundle_is_put_in_use_and_the_earlier_one_retired(
    bundles: Path, tiny_bundle: Path, other_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that begin now use the new one; those under way keep theirs until their end. The
    collector leaves each alone from then on."""
    frozen: list[int] = []
    monkeypatch.setattr(swap, "freeze_heap", lambda: frozen.append(1))
    async with parts(bundles, deadline_ms=1) as worker:
        await worker.swapper.put_in_use(await worker.loader.load(bundles / tiny_bundle.name))
        first = worker.state.in_use
        await worker.swapper.swap_if_wanted()
        assert worker.state.in_use is first, "there is no other bundle"
        assert len(frozen) == 1
        shutil.copytree(other_bundle, bundles / other_bundle.name)
        await worker.swapper.swap_if_wanted()
        assert worker.state.loaded is not None
        assert worker.state.loaded.bundle.path.name == other_bundle.name
        assert first is not None
        assert first in worker.builder._open, "its requests may still be under way"
        assert len(frozen) == 2


async def test_a_bundle_that_cannot_be_loaded_is_refused_once(
    bundles: Path, tiny_bundle: Path, other_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The one in use stays; log, metrics and state say why; the same files are not tried again."""
    async with parts(bundles) as worker:
        await worker.swapper.put_in_use(await worker.loader.load(bundles / tiny_bundle.name))
        shutil.copytree(other_bundle, bundles / other_bundle.name)
        (bundles / other_bundle.name / "examples.jsonl").write_text("{}\n")
        for _ in range(2):
            await worker.swapper.swap_if_wanted()
        assert worker.state.loaded is not None
        assert worker.state.loaded.bundle.path.name == tiny_bundle.name
        assert worker.state.refused is not None
        assert "examples.jsonl" in worker.state.refused
        assert worker.metrics.refused_bundles.collect()[0].samples[0].value == 1
        (told,) = (each for each in caplog.records if each.levelno == logging.ERROR)
        assert "examples.jsonl" in told.getMessage()
        assert not told.exc_info, "a reason, no trace"


async def test_what_another_worker_refuses_is_neither_served_nor_announced(
    bundles: Path, tiny_bundle: Path, other_bundle: Path
) -> None:
    """A worker that refuses takes its announcement back: its successor serves what the others
    do."""
    shared = SharedNumbers(2)
    async with parts(bundles, shared) as worker:
        loaded = await worker.loader.load(bundles / tiny_bundle.name)
        worker.agreement.prepare(loaded.bundle.number)
        await worker.swapper.put_in_use(loaded)
        shared.set_ready()
        shared.begin_worker(1)
        shared.set_ready()
        other = Agreement(shared)
        shutil.copytree(other_bundle, bundles / other_bundle.name)
        attempt = worker.swapper.versions.wanted(loaded.bundle)
        assert attempt is not None
        # The other worker has no bundle of its own to name: what it announces is no answer.
        other.refuse(attempt, 0)
        await worker.swapper.swap_if_wanted()
        assert worker.state.loaded is loaded
        assert worker.state.refused == "another worker cannot serve it"
        assert other.in_use(bundles) == bundles / tiny_bundle.name


async def test_it_goes_on_looking_whatever_happens(caplog: pytest.LogCaptureFixture) -> None:
    """At each poll, or at once where it is asked to; an error is logged, and that is all."""
    looks: list[int] = []

    async def look() -> None:
        looks.append(1)
        raise ValueError("of this look")

    async def looked(times: int) -> None:
        async with asyncio.timeout(30):
            while len(looks) < times:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    for poll_seconds, asked in ((3_600.0, True), (0.001, False)):
        made = swapper(poll_seconds)
        made.swap_if_wanted = look  # type: ignore[method-assign]
        watching = asyncio.create_task(made.watch())
        looks.clear()
        for times in (1, 2, 3):
            if asked:
                made.look()
            await looked(times)
            if asked:
                await asyncio.sleep(0)
                assert len(looks) == times, "once for each time that it is asked"
        watching.cancel()
        await asyncio.wait([watching])
    assert "looking for another bundle failed" in caplog.text
    assert "of this look" in caplog.text


async def test_a_disk_that_does_not_answer_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While it does not, in the log too; when it does, what it has is put in use."""
    monkeypatch.setattr(swap, "HANGING_SECONDS", 0.01)
    versions = SimpleNamespace(directory="/bundles", problem=None)
    made, answers = swapper(versions=versions), threading.Event()

    def work() -> Any:
        answers.wait(30)
        return "the newer one"

    looking = asyncio.create_task(made._look(work))
    async with asyncio.timeout(30):
        while versions.problem is None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert versions.problem == "/bundles does not answer"
    assert "still serving the same bundle: /bundles does not answer" in caplog.text
    assert not looking.done()
    answers.set()
    assert await looking == "the newer one"
    versions.problem = None
    monkeypatch.setattr(swap, "HANGING_SECONDS", 30.0)
    assert await made._look(work) == "the newer one"
    assert versions.problem is None


@pytest.mark.parametrize("there", [True, False])
async def test_a_vocabulary_that_is_not_there_in_time_is_a_refusal(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is closed then, and is kept where it is there."""
    monkeypatch.setattr(swap, "REACH_SECONDS", 30.0 if there else 0.01)
    closed, read = [], []

    async def close() -> None:
        closed.append(True)

    async def reach() -> None:
        if not there:
            await asyncio.Event().wait()

    async def read_items(undo: AsyncExitStack) -> None:
        read.append(undo)

    remote = SimpleNamespace(close=close, problem="Redis is loading")
    loaded = SimpleNamespace(remote=remote, reach_vocabulary=reach, read_items=read_items)
    undo = AsyncExitStack()
    if there:
        await complete(cast(Loaded, loaded), undo)
    else:
        with pytest.raises(BundleError, match="its vocabulary: Redis is loading"):
            await complete(cast(Loaded, loaded), undo)
    assert (closed, read) == ([], [undo] * there)
    await undo.aclose()
    assert closed == [True]


@pytest.mark.parametrize(
    ("error", "reason", "again"),
    [
        (ValueError("of ours"), "ValueError", False),
        (OSError(errno.EMFILE, "too many open files"), "OSError", True),
    ],
)
async def test_an_unforeseen_error_refuses_a_bundle_too(
    error: Exception, reason: str, again: bool, bundles: Path, tiny_bundle: Path,
    other_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Its type is told and its trace logged; where a descriptor was missing, it is tried again."""
    async with parts(bundles) as worker:
        loaded = await worker.loader.load(bundles / tiny_bundle.name)
        await worker.swapper.put_in_use(loaded)
        shutil.copytree(other_bundle, bundles / other_bundle.name)

        async def fail(path: Path) -> Loaded:
            raise error

        monkeypatch.setattr(worker.loader, "load", fail)
        await worker.swapper.swap_if_wanted()
        assert worker.state.refused == reason
        assert worker.state.loaded is loaded
        wanted = worker.swapper.versions.wanted(loaded.bundle)
        assert (wanted is not None) is again
        (told,) = (each for each in caplog.records if each.levelno == logging.ERROR)
        assert told.exc_info is not None


async def test_a_swap_begins_when_there_is_room() -> None:
    """Not before: each bundle has an engine with its threads."""
    order: list[object] = []

    async def room() -> None:
        order.append("room")

    async def put(attempt: object) -> None:
        order.append(attempt)

    wanted: list[object] = []
    versions = SimpleNamespace(wanted=lambda bundle: wanted.pop() if wanted else None)
    made = swapper(versions=versions, state=SimpleNamespace(loaded=SimpleNamespace(bundle="1")))
    made.wait_for_room = room  # type: ignore[method-assign]
    made._swap = put  # type: ignore[method-assign]
    await made.swap_if_wanted()
    assert order == []
    wanted.append("2")
    await made.swap_if_wanted()
    assert order == ["room", "2"]


async def test_a_look_that_is_asked_for_during_another_follows_it() -> None:
    """An activation that comes while a bundle is loaded does not wait for the next poll."""
    made = swapper()
    looks: list[int] = []

    async def look() -> None:
        looks.append(1)
        if len(looks) == 1:
            made.look()

    made.swap_if_wanted = look  # type: ignore[method-assign]
    watching = asyncio.create_task(made.watch())
    made.look()
    await until(lambda: len(looks) == 2)
    watching.cancel()
    await asyncio.wait([watching])


@pytest.mark.parametrize("agreed", [True, False])
async def test_what_a_new_bundle_has_open_is_closed_only_where_it_is_refused(agreed: bool) -> None:
    """It is complete, and the others know of it, before it is agreed on."""
    events: list[str] = []

    async def note(event: str) -> None:
        events.append(event)

    async def wait(attempt: Attempt) -> None:
        events.append("waits")
        if not agreed:
            raise BundleError("another worker cannot serve it")

    async def load(path: Path) -> Any:
        return SimpleNamespace(
            remote=SimpleNamespace(close=lambda: note("closed"), problem=None),
            reach_vocabulary=lambda: note("reached"),
            read_items=lambda undo: note("read"),
            bundle=SimpleNamespace(number=2),
        )

    agreement = SimpleNamespace(
        prepare=lambda number: events.append(f"prepared {number}"),
        wait=wait,
        refuse=lambda attempt, number: events.append(f"back to {number}"),
    )
    used = SimpleNamespace(bundle=SimpleNamespace(version="1", number=1))
    made = swapper(
        loader=SimpleNamespace(load=load),
        agreement=agreement,
        state=SimpleNamespace(loaded=used),
        versions=SimpleNamespace(refuse=lambda *_: None),
        refused_bundles=SimpleNamespace(add=lambda: None),
    )
    made.put_in_use = lambda loaded: note("used")  # type: ignore[method-assign]
    await made._swap(Attempt(Path("bundles/2"), (), 0))
    end = ["used"] if agreed else ["closed", "back to 1"]
    assert events == ["reached", "read", "prepared 2", "waits", *end]


async def test_the_others_are_told_what_serves(bundles: Path, tiny_bundle: Path) -> None:
    """An activation is over when all serve the same."""
    shared = SharedNumbers(2)
    async with parts(bundles, shared) as worker:
        loaded = await worker.loader.load(bundles / tiny_bundle.name)
        await worker.swapper.put_in_use(loaded)
        shared.begin_worker(1)
        other = Agreement(shared)
        assert not other.reached(loaded.bundle.number)
        other.serve(loaded.bundle.number)
        assert other.reached(loaded.bundle.number)


async def test_what_is_held_against_a_version_is_forgotten_when_it_serves(
    bundles: Path, tiny_bundle: Path
) -> None:
    """Without a gate too; where there is nothing to forget, nothing is written."""
    name = tiny_bundle.name
    async with parts(bundles) as worker:
        await worker.swapper.put_in_use(await worker.loader.load(bundles / name))
        assert not (bundles / ROLLOUT).exists()
        ended = {name: Ended("operator", "it was stopped", 1)}
        change_rollout(bundles, lambda found: msgspec.structs.replace(found, stopped=ended))
        await worker.swapper.swap_if_wanted()
        await worker.swapper.put_in_use(await worker.loader.load(bundles / name))
        assert read_rollout(bundles) == Rollout(serving=name)


async def test_what_serves_is_noted_before_the_others_are_told(
    bundles: Path, tiny_bundle: Path
) -> None:
    """So whoever has chosen a bundle finds it forgiven; requests have it before."""
    name, shared = tiny_bundle.name, SharedNumbers()
    ended = {name: Ended("operator", "it was stopped", 1)}
    change_rollout(bundles, lambda found: msgspec.structs.replace(found, stopped=ended))
    async with parts(bundles, shared) as worker:
        loaded = await worker.loader.load(bundles / name)
        assert worker.swapper.versions.wanted(loaded.bundle) is None
        with held_up(bundles):
            putting = asyncio.create_task(worker.swapper.put_in_use(loaded))
            await until(lambda: worker.state.in_use is not None)
            told = shared.region("serving bundle", 1).own
            assert (read_rollout(bundles).stopped, told[0]) == (ended, 0)
        await putting
        assert (read_rollout(bundles), told[0]) == (Rollout(serving=name), loaded.bundle.number)
