"""Wake-ups that the tasks of a process share: an idle service sleeps."""

from __future__ import annotations

import asyncio


def until_next(seconds: float) -> float:
    """Return the time from now to the next whole multiple of ``seconds`` of the loop's clock.

    Tasks that wait so long, each again and again, wake the process once where their periods meet.
    """
    return seconds - asyncio.get_running_loop().time() % seconds
