"""An engine that fails again and again is replaced over the same bundle."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.serving import healing
from app.serving.healing import Healer
from app.serving.state import FAILURES
from tests.support.inside import until
from tests.support.serving_parts import parts

pytestmark = pytest.mark.anyio


async def test_a_failing_engine_is_rebuilt(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where building fails too it is tried again; afterwards the same bundle has another engine,
    and the service counts as working."""
    monkeypatch.setattr(healing, "FIRST_PAUSE", 0.01)
    async with parts(tiny_bundle) as worker:
        await worker.swapper.put_in_use(await worker.loader.load(tiny_bundle))
        before = worker.state.loaded
        rebuild, tries = worker.loader.with_new_engine, iter((True, True, False))

        async def sometimes(loaded: Any) -> Any:
            if next(tries):
                raise RuntimeError("the device is gone")
            return await rebuild(loaded)

        monkeypatch.setattr(worker.loader, "with_new_engine", sometimes)
        watching = asyncio.create_task(Healer(worker.loader, worker.swapper, worker.state).watch())
        for _ in range(FAILURES):
            worker.state.engine_failed(RuntimeError("the device is gone"))
        await until(lambda: not worker.state.engine_failing.is_set(), "it is rebuilt")
        watching.cancel()
        after = worker.state.loaded
        assert before is not None
        assert after is not None
        assert after.bundle is before.bundle
        assert after.engine is not before.engine
        assert caplog.text.count("the engine cannot be rebuilt: the device is gone") == 2


async def test_an_engine_that_works_again_is_kept(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that succeeds while another engine is being built ends the healing."""
    async with parts(tiny_bundle) as worker:
        await worker.swapper.put_in_use(await worker.loader.load(tiny_bundle))
        before = worker.state.in_use

        async def failing(loaded: Any) -> Any:
            worker.state.engine_ran()
            raise RuntimeError("the device is gone")

        monkeypatch.setattr(worker.loader, "with_new_engine", failing)
        monkeypatch.setattr(healing, "FIRST_PAUSE", 0.01)
        watching = asyncio.create_task(Healer(worker.loader, worker.swapper, worker.state).watch())
        for _ in range(FAILURES):
            worker.state.engine_failed(RuntimeError("the device is gone"))
        await until(lambda: not worker.state.engine_failing.is_set(), "it works again")
        watching.cancel()
        assert worker.state.in_use is before
