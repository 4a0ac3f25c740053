"""Another bundle takes the place of the one in use, in all workers or in none."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import shutil
import threading
import weakref
from contextlib import AsyncExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.bundle.directory import CURRENT
from app.errors import BundleError, EngineFailed, HeldBack, ValueProblem
from app.rollout.state_file import read_rollout
from app.serving import swap
from app.serving.agreement import Agreement
from app.serving.loading import Loaded
from app.serving.state import BundleInUse
from app.serving.swap import MAX_RETIRING, RETIRE_CHECK_SECONDS, Swapper, complete
from app.store.opening import open_store
from app.store.store import Item
from app.workers.shared_numbers import SharedNumbers
from tests.support.serving_parts import parts

pytestmark = pytest.mark.anyio


@pytest.fixture
def bundles(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A directory that holds the older bundle."""
    shutil.copytree(tiny_bundle, tmp_path / tiny_bundle.name)
    return tmp_path


async def test_a_later_bundle_is_put_in_use_and_the_earlier_one_retired(
    bundles: Path, tiny_bundle: Path, other_bundle: Path
) -> None:
    """Requests that begin now use the new one; those under way keep theirs until their end."""
    async with parts(bundles, deadline_ms=1) as worker:
        await worker.swapper.put_in_use(await worker.loader.load(bundles / tiny_bundle.name))
        first = worker.state.in_use
        await worker.swapper.swap_if_wanted()
        assert worker.state.in_use is first, "there is no other bundle"
        shutil.copytree(other_bundle, bundles / other_bundle.name)
        await worker.swapper.swap_if_wanted()
        assert worker.state.loaded is not None
        assert worker.state.loaded.bundle.path.name == other_bundle.name
        assert first is not None
        assert first in worker.builder._open, "its requests may still be under way"


@pytest.mark.parametrize("stored", [False, True])
async def test_a_replaced_bundle_is_freed_without_the_collector(
    bundles: Path, tiny_bundle: Path, tmp_path: Path, stored: bool
) -> None:
    """What is in use is frozen, so nothing of it may be in a cycle; with a catalogue neither."""
    settings: dict[str, str] = {}
    if stored:
        url = f"sqlite://{tmp_path}/store.db"
        with closing(open_store(url, create=True)) as store:
            store.put([Item(f"item{number}", {"price": 1.0}) for number in range(20)])
        settings = {"store": url, "profile_key": "user_id", "item_key": "item_id"}
    async with parts(bundles, deadline_ms=1, **settings) as worker, AsyncExitStack() as undo:
        kept: list[weakref.ref[object]] = []
        for _ in range(2):
            loaded = await worker.loader.load(bundles / tiny_bundle.name)
            await loaded.read_items(undo)
            undo.pop_all()
            await worker.swapper.put_in_use(loaded)
            if not kept:
                in_use = worker.state.in_use
                assert in_use is not None
                things = [loaded.engine, loaded.encoder, in_use.scorer, in_use.batcher]
                if loaded.items is not None and loaded.profiles is not None:
                    things += [loaded.items, loaded.items.catalogue, loaded.profiles]
                kept = [weakref.ref(thing) for thing in things]
                assert len(kept) == (7 if stored else 4)
                del in_use, things
            del loaded
        gc.disable()
        try:
            async with asyncio.timeout(30):
                while any(each() is not None for each in kept):  # noqa: ASYNC110
                    await asyncio.sleep(RETIRE_CHECK_SECONDS)
        except TimeoutError:
            pass
        finally:
            gc.enable()
        assert [type(found).__name__ for each in kept if (found := each()) is not None] == []


async def test_a_bundle_that_cannot_be_loaded_is_refused_once(
    bundles: Path, tiny_bundle: Path, other_bundle: Path
) -> None:
    """The one in use stays; metrics and state say why; the same files are not tried again."""
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


async def test_a_bundle_that_does_not_pass_the_gate_is_held(
    bundles: Path, tiny_bundle: Path, other_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It is no fault, is judged once, and serves as soon as it is chosen."""
    gate = tmp_path_factory.mktemp("gate") / "gate.toml"
    gate.write_text("[test]\nmin_auc = 1\n[golden]\nmax_changed_top = 0\n")
    async with parts(bundles, gate=gate) as worker:
        await worker.swapper.put_in_use(await worker.loader.load(bundles / tiny_bundle.name))
        shutil.copytree(other_bundle, bundles / other_bundle.name)
        versions = worker.swapper.versions
        await worker.swapper.swap_if_wanted()
        assert worker.state.loaded is not None
        assert versions.wanted(worker.state.loaded.bundle) is None
        assert worker.state.loaded.bundle.path.name == tiny_bundle.name
        reason = versions.held[other_bundle.name]
        assert "test.min_auc is 1" in reason
        assert "golden.max_changed_top is 0" in reason
        assert worker.state.refused is None
        assert worker.metrics.refused_bundles.collect()[0].samples[0].value == 0
        (bundles / CURRENT).write_text(f"{other_bundle.name}\n")
        await worker.swapper.swap_if_wanted()
        assert worker.state.loaded.bundle.path.name == other_bundle.name
        assert read_rollout(bundles).serving == other_bundle.name
        assert versions.wanted(worker.state.loaded.bundle) is None
        assert not versions.held


async def test_a_bundle_that_passes_the_gate_serves(
    bundles: Path, other_bundle: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gate = tmp_path_factory.mktemp("gate") / "gate.toml"
    gate.write_text("[same_test]\nauc_lost = 1\nlog_loss_added = 9\n[golden]\n")
    async with parts(bundles, gate=gate) as worker:
        await worker.swapper.put_in_use(await worker.loader.load(bundles / tiny_bundle.name))
        shutil.copytree(other_bundle, bundles / other_bundle.name)
        await worker.swapper.swap_if_wanted()
        assert worker.state.loaded is not None
        assert worker.state.loaded.bundle.path.name == other_bundle.name


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


async def test_replaced_bundles_are_closed_when_they_are_idle(
    bundles: Path, tiny_bundle: Path
) -> None:
    """However long requests may take: a bundle that has none is closed at once."""
    async with parts(bundles, deadline_ms=3_600_000) as worker:
        for _ in range(6):
            await worker.swapper.wait_for_room()
            loaded = await worker.loader.load(bundles / tiny_bundle.name)
            await worker.swapper.put_in_use(loaded)
            assert len(worker.builder._open) <= 2
        async with asyncio.timeout(30):
            while len(worker.builder._open) > 1:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)


async def test_a_bundle_is_kept_for_its_requests_and_few_are(
    bundles: Path, tiny_bundle: Path
) -> None:
    """A swap waits while two replaced bundles have requests, and goes on when one has none."""
    async with parts(bundles, deadline_ms=3_600_000) as worker:
        held = []
        for _ in range(1 + MAX_RETIRING):
            loaded = await worker.loader.load(bundles / tiny_bundle.name)
            await worker.swapper.put_in_use(loaded)
            assert worker.state.in_use is not None
            held.append(worker.state.in_use.scorer)
            held[-1].reading += 1
        waiting = asyncio.create_task(worker.swapper.wait_for_room())
        # Long enough for several looks at the bundles, which have requests.
        await asyncio.sleep(4 * RETIRE_CHECK_SECONDS)
        assert not waiting.done()
        assert len(worker.builder._open) == 1 + MAX_RETIRING
        held[0].reading -= 1
        async with asyncio.timeout(30):
            await waiting
        assert len(worker.builder._open) == MAX_RETIRING


def swapper(poll_seconds: float = 3_600.0, **parts: Any) -> Swapper:
    """Return a swapper of these parts alone."""
    names = ("versions", "loader", "builder", "state", "agreement", "refused_bundles")
    given = cast(Any, {name: SimpleNamespace() for name in names} | parts)
    return Swapper(**given, poll_seconds=poll_seconds, deadline_seconds=0.0)


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


async def test_a_disk_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it does not; when it does, what it has is put in use."""
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
    assert not looking.done()
    answers.set()
    assert await looking == "the newer one"
    versions.problem = None
    monkeypatch.setattr(swap, "HANGING_SECONDS", 30.0)
    assert await made._look(work) == "the newer one"
    assert versions.problem is None


async def test_a_replaced_bundle_is_closed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the deadline of its requests, idle or not; one that is being closed is in time."""
    monkeypatch.setattr(swap, "RETIRE_SECONDS", 0.02)
    closed: list[object] = []

    async def close(bundle: object) -> None:
        closed.append(bundle)

    made = swapper(builder=SimpleNamespace(close=close))
    busy = cast(BundleInUse, SimpleNamespace(idle=False))
    begun = asyncio.get_running_loop().time()
    made.retire(busy)
    async with asyncio.timeout(30):
        while made._retiring:
            await asyncio.wait(made._retiring)
            await asyncio.sleep(0)
    assert closed == [busy]
    assert asyncio.get_running_loop().time() - begun >= 0.02
    monkeypatch.setattr(swap, "RETIRE_SECONDS", 3_600.0)
    made = swapper(builder=SimpleNamespace(close=close))
    made.retire(busy)
    await asyncio.sleep(0)
    await made.close()
    assert closed == [busy], "the builder closes what is left"


@pytest.mark.parametrize("error", [EngineFailed("no device"), ValueProblem("no number")])
def test_golden_requests_that_the_bundle_in_use_cannot_score_hold_the_other(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no fault of the other one, which an operator may choose all the same."""

    def fail(*_: object) -> None:
        raise error

    def bundle(version: str) -> Any:
        manifest = SimpleNamespace(version=version, manifest=None, examples=())
        return SimpleNamespace(bundle=manifest, encoder=None, engine=None)

    monkeypatch.setattr(swap, "golden_change", fail)
    monkeypatch.setattr(swap, "Figures", SimpleNamespace(of=lambda manifest: manifest))
    gate = SimpleNamespace(golden=object(), figure_problems=lambda *_: ["its AUC"])
    made = swapper(gate=gate, state=SimpleNamespace(loaded=bundle("1")))
    with pytest.raises(
        HeldBack, match=r"^its AUC; 1 cannot score its golden requests: no (device|number)$"
    ):
        made._pass(bundle("2"))


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
