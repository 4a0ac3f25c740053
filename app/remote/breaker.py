"""Whether Redis is asked at all: while it does not answer, nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from app.errors import Problem

PAUSES = (0.0, 0.25, 0.5, 1.0)
"""Seconds from a failure to the next probe, by the number of failures without a success between."""
REFRESH_SECONDS = 30.0
"""Time between probes while all is well."""
LOG_SECONDS = 10.0
"""Changes are told at most this often."""

log = logging.getLogger(__name__)


class Breaker:
    """Closed while Redis answers, open from the first failure to the next successful probe.

    Requests never probe: one task does, at a bounded rate, and requests are let through again
    only once it had its answer. ``probe`` returns what is wrong, or None.
    """

    def __init__(self, probe: Callable[[], Awaitable[Problem | None]]) -> None:
        self._probe = probe
        self._wake = asyncio.Event()
        self._probed = asyncio.Event()
        self._reached = asyncio.Event()
        self.failures = 0
        self._told = -LOG_SECONDS
        self.closed = False
        self.problem: Problem | None = Problem("Redis has not been asked yet")
        self.opened = 0

    async def probed(self) -> None:
        """Wait for the end of the first probe, whatever came of it."""
        await self._probed.wait()

    async def reached(self) -> None:
        """Wait for the first successful probe."""
        await self._reached.wait()

    def succeed(self) -> None:
        """Note that requests get their answers."""
        self.failures = 0

    def trip(self, problem: Problem) -> None:
        """Open, as a question failed, and probe soon."""
        if self.closed:
            self._open(problem)
        self._wake.set()

    def suspect(self) -> None:
        """Probe soon: an answer was not what it should be."""
        self._wake.set()

    async def watch(self) -> None:
        """Probe for ever: when woken, at intervals while open, now and then while closed."""
        while True:
            self._wake.clear()
            try:
                problem = await self._probe()
            except Exception as error:
                # Nobody foresaw it; without probes Redis would never be asked again.
                log.exception("the probe failed")
                problem = Problem("the probe failed", type(error).__name__)
            if problem is None:
                self._close()
                self._probed.set()
                # Not wait_for: before Python 3.12 it may lose a cancellation.
                try:
                    async with asyncio.timeout(REFRESH_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    continue
                if self.closed:
                    # Only suspected: that may happen with every answer, so it waits its turn.
                    await asyncio.sleep(PAUSES[1])
                    continue
            else:
                self._open(problem)
                self._probed.set()
            pause = PAUSES[max(0, min(self.failures, len(PAUSES)) - 1)]
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))

    def close(self) -> None:
        """Let nothing through any more, and let go of who probes: see ``Gatherer.close``."""
        self.closed = False
        self.problem = _ENDED
        self._probe = _no_probe

    def _open(self, problem: Problem) -> None:
        self.failures += 1
        self.problem = problem
        if self.closed:
            self.closed = False
            self.opened += 1
        self._tell(logging.WARNING, "not asking Redis: %s", problem)

    def _close(self) -> None:
        if not self.closed:
            self.closed = True
            self.problem = None
            self._reached.set()
            self._tell(logging.INFO, "Redis answers")

    def _tell(self, level: int, message: str, *args: object) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told >= LOG_SECONDS:
            self._told = now
            log.log(level, message, *args)


_ENDED = Problem("Redis is not asked any more")


async def _no_probe() -> Problem:
    return _ENDED
