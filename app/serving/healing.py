"""An engine that fails again and again is replaced by a new one over the same bundle."""

from __future__ import annotations

import asyncio
import logging

from app.backoff import Backoff
from app.serving.loading import Loader
from app.serving.state import ServingState
from app.serving.swap import Swapper

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between two tries to build an engine."""
log = logging.getLogger(__name__)


class Healer:
    """Rebuilds the engine of the bundle in use whenever the state says that it is failing."""

    def __init__(self, loader: Loader, swapper: Swapper, state: ServingState) -> None:
        self._loader = loader
        self._swapper = swapper
        self._state = state

    async def watch(self) -> None:
        """Heal whenever it is needed, until cancelled."""
        while True:
            await self._state.engine_failing.wait()
            try:
                await self._heal()
            except Exception:
                # Without this task a failing engine would fail until a restart.
                log.exception("healing failed")
                await asyncio.sleep(FIRST_PAUSE)

    async def _heal(self) -> None:
        """Build engines until one works, or until the old one does again."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while self._state.engine_failing.is_set():
            loaded = self._state.loaded
            assert loaded is not None
            await self._swapper.wait_for_room()
            try:
                rebuilt = await self._loader.with_new_engine(loaded)
            except Exception as error:
                log.error("the engine cannot be rebuilt: %s", error)
                await asyncio.sleep(backoff.fail())
                continue
            if self._state.loaded is loaded:
                await self._swapper.put_in_use(rebuilt)
