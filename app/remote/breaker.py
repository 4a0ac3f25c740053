"""A circuit breaker: while Redis, or a store, does not answer, no request waits for it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from app.backoff import Backoff
from app.errors import Problem
from app.logs import LogLimit

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 1.0
"""Seconds between probes while they fail; the first failure is followed by a probe at once."""
REFRESH_SECONDS = 30.0
"""Time between probes while all is well."""
LOG_SECONDS = 10.0
"""Shortest time between two log lines about changes."""

log = logging.getLogger(__name__)


class Breaker:
    """Closed while it answers, open from the first failure to the next successful probe.

    Requests never probe. One task does, at a bounded rate, and requests ask again only after a
    probe has succeeded. ``probe`` returns what is wrong, or None; ``asked`` is who is asked, for
    messages.
    """

    def __init__(
        self, probe: Callable[[], Awaitable[Problem | None]], asked: str = "Redis"
    ) -> None:
        self._probe = probe
        self._wake = asyncio.Event()
        self._probed = asyncio.Event()
        self._reached = asyncio.Event()
        self.backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, at_once=True)
        self._limit = LogLimit(LOG_SECONDS)
        self.closed = False
        self._asked = asked
        self.problem: Problem | None = Problem(f"{asked} has not been asked yet")

    async def probed(self) -> None:
        """Wait for the end of the first probe, successful or not."""
        await self._probed.wait()

    async def reached(self) -> None:
        """Wait for the first successful probe."""
        await self._reached.wait()

    @property
    def open_after_probe(self) -> bool:
        """True if a probe has ended, and Redis cannot be asked."""
        return self._probed.is_set() and not self.closed

    def succeed(self) -> None:
        """Note that requests get their answers."""
        self.backoff.reset()

    def trip(self, problem: Problem) -> None:
        """Open after a failed question, and probe soon."""
        if self.closed:
            self._open(problem)
        self._wake.set()

    def suspect(self) -> None:
        """Probe soon: an answer was wrong."""
        self._wake.set()

    async def watch(self) -> None:
        """Probe until cancelled: when woken, often while open, rarely while closed."""
        while True:
            self._wake.clear()
            try:
                problem = await self._probe()
            except Exception as error:
                # Without probes nobody would be asked again, whatever the error is.
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
                    # Only suspected. Every answer may cause that, so the rate is bounded.
                    await asyncio.sleep(FIRST_PAUSE)
                    continue
            else:
                self._open(problem)
                self._probed.set()
            await asyncio.sleep(self.backoff.pause * random.uniform(0.8, 1.2))

    def close(self) -> None:
        """Stay open from now on, and drop the reference to ``probe``: see ``Gatherer.close``."""
        self.closed = False
        self.problem = Problem(f"{self._asked} is no longer asked")
        self._probe = _no_probe

    def _open(self, problem: Problem) -> None:
        self.backoff.fail()
        self.problem = problem
        self.closed = False
        self._limit.log(log, logging.WARNING, "not asking %s: %s", self._asked, problem)

    def _close(self) -> None:
        if not self.closed:
            self.closed = True
            self.problem = None
            self._reached.set()
            self._limit.log(log, logging.INFO, "%s answers", self._asked)


async def _no_probe() -> Problem:
    return Problem("nobody is asked any longer")
