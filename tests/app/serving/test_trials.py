"""A trial ends once in a worker, whatever its end is found by while a look at the disk lasts."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from app.rollout.guard import CAUSES
from app.rollout.state_file import Candidate, Rollout, change_rollout
from app.serving.trials import OnTrial
from tests.support.inside import until
from tests.support.serving_parts import Parts, held_up, parts

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def on_trial(
    directory: Path, live: Path, tried: Path
) -> AsyncIterator[tuple[Parts, OnTrial]]:
    """A worker that serves one bundle of a directory and has the other one on trial."""
    for each in (live, tried):
        shutil.copytree(each, directory / each.name)
    candidate = Candidate(tried.name, "shadow", 1.0, began=7)
    change_rollout(directory, lambda found: msgspec.structs.replace(found, candidate=candidate))
    async with parts(directory) as worker:
        loaded = await worker.loader.load(directory / live.name)
        await worker.swapper.put_in_use(loaded)
        await worker.trials.start(loaded.bundle)
        held = worker.trials.on_trial
        assert held is not None
        yield worker, held


async def ends(worker: Parts) -> dict[str, float]:
    """The ends that are counted, once the ended bundles are closed."""
    await until(lambda: not worker.swapper._retiring, "they are closed")
    [family, *_] = worker.metrics.trial.collect()
    return {each.labels["cause"]: each.value for each in family.samples if each.value}


async def test_an_end_that_is_written_is_found_meanwhile(
    tiny_bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    """The guard ends it while another worker's end is noted in the file."""
    async with on_trial(tmp_path, tiny_bundle, other_bundle) as (worker, held):
        trials = worker.trials
        assert worker.state.loaded is not None
        with held_up(tmp_path):
            # As another worker tells it.
            trials._ended.own[1] = CAUSES.index("promoted")
            trials._ended.own[0] = held.candidate.began
            trials.rollout = Rollout()
            following = asyncio.create_task(trials._follow(worker.state.loaded.bundle))
            await until(lambda: trials.rollout.candidate == held.candidate, "the file is read")
            trials._tick(held)
            assert trials.on_trial is None
        await following
        assert trials.rollout == Rollout(serving=other_bundle.name)
        assert await ends(worker) == {"promoted": 1}


async def test_an_end_is_found_while_the_bundle_is_looked_for(
    tiny_bundle: Path, other_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That its directory is gone as well is neither counted nor written."""
    async with on_trial(tmp_path, tiny_bundle, other_bundle) as (worker, held):
        trials = worker.trials
        assert worker.state.loaded is not None

        def gone(directory: Path) -> bool:
            loop.call_soon_threadsafe(trials.stop, held, "operator", "an operator ended it")
            assert asyncio.run_coroutine_threadsafe(ended(), loop).result(60) is None
            return False

        async def ended() -> OnTrial | None:
            return trials.on_trial

        loop = asyncio.get_running_loop()
        monkeypatch.setattr("app.serving.trials.is_bundle", gone)
        await trials._follow(worker.state.loaded.bundle)
        await asyncio.gather(*trials._writing)
        assert trials.rollout.stopped[other_bundle.name].cause == "operator"
        assert await ends(worker) == {"operator": 1}
