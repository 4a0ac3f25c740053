"""Waiting for what happens in the same event loop, or on a thread beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

AT_ONCE = 100
"""Turns of the loop that come one after the other: what is awaited is mostly there by then."""


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until something is so; the test's timeout is the limit.

    After the first turns it sleeps between them, and leaves the processor to what is awaited.
    """
    for turn in count():
        if condition():
            return
        await asyncio.sleep(0 if turn < AT_ONCE else 0.001)
