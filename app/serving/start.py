"""From the start of a worker to its end: the first bundle, and the tasks that watch over it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path

from app.metrics.registry import Metrics
from app.off_loop import run_off_loop
from app.rollout.state_file import first_bundle
from app.serving.agreement import Agreement
from app.serving.build import Builder, watch_vocabulary
from app.serving.healing import Healer
from app.serving.loading import Loader, Opened
from app.serving.state import ServingState
from app.serving.swap import Swapper
from app.serving.trials import Trials
from app.serving.tuning import switch_threads_quickly
from app.workers.wake_ups import until_next

POLL_SECONDS, IDLE_POLL_SECONDS = 0.25, 1.0
"""Greatest age of the gauges and counts of values that other workers show of this one: while they
change, and after a pause."""


class Starter:
    """Loads the first bundle, keeps the tasks that watch over it, and closes everything."""

    def __init__(
        self,
        bundle: Path,
        loader: Loader,
        builder: Builder,
        swapper: Swapper,
        healer: Healer,
        state: ServingState,
        agreement: Agreement,
        metrics: Metrics,
        gated: bool,
        trials: Trials,
    ) -> None:
        """``bundle`` is a bundle, or a directory of them, which may be behind a gate."""
        self._bundle = bundle
        self._loader = loader
        self._builder = builder
        self._swapper = swapper
        self._healer = healer
        self._state = state
        self._agreement = agreement
        self._metrics = metrics
        self._gated = gated
        self._trials = trials
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, opened: Opened | None) -> None:
        """Put the first bundle in use, then watch for others.

        ``opened`` is one that was opened before; another one may be in use by now.

        Raises:
            CtrError: there is no bundle that can be served.
        """
        path = await run_off_loop(lambda: self._first(opened))
        if opened is not None and opened.bundle.path != path:
            opened = None
        async with AsyncExitStack() as undo:
            loaded = await self._loader.load(path, opened)
            if loaded.remote is not None:
                undo.push_async_callback(loaded.remote.close)
                watch_vocabulary(self._metrics, loaded.remote)
                self._state.awaited_vocabulary = loaded.remote
                await loaded.reach_vocabulary()
            await loaded.read_items(undo, self._metrics.shared.started)
            await self._trials.start(loaded.bundle)
            undo.pop_all()
        self._agreement.prepare(loaded.bundle.number)
        await self._swapper.put_in_use(loaded)
        self._trials.begin()
        self._metrics.shared.set_ready()
        switch_threads_quickly()
        self._begin(self._healer.watch())
        if self._metrics.shared.workers > 1:
            self._begin(self._poll_metrics())
        self._begin(self._swapper.watch())
        self._begin(self._trials.follow())
        self._begin(self._trials.guard())

    def _first(self, opened: Opened | None) -> Path:
        """Return the bundle that the other workers serve, or else the one to serve."""
        bundle = opened.bundle if opened else None
        return self._agreement.in_use(self._bundle, bundle) or first_bundle(
            self._bundle, self._gated
        )

    async def _poll_metrics(self) -> None:
        """Let the other workers show this one's numbers."""
        pause = POLL_SECONDS
        while True:
            changed = self._metrics.poll()
            pause = POLL_SECONDS if changed else min(IDLE_POLL_SECONDS, 2 * pause)
            await asyncio.sleep(until_next(pause))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def close(self) -> None:
        """Stop the tasks and close every bundle; requests that wait are answered with 503."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._trials.close()
        await self._swapper.close()
        self._metrics.poll()
        await self._builder.close_all()
