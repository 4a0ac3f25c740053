"""Work that may block for ever, such as reading a network disk that hangs, off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


async def run_off_loop(work: Callable[[], Result]) -> Result:
    """Return what ``work`` returns, which runs in a thread of its own; its errors are raised.

    Unlike ``asyncio.to_thread``, whose threads a process waits for at its end, a thread that hangs
    holds up neither the loop nor the end of the process.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.done():
            # Nobody waits any longer.
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, problem = None, None
        try:
            result = work()
        except BaseException as error:
            problem = error
        # The loop may be closed by now.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, problem)

    threading.Thread(target=run, name="off the loop", daemon=True).start()
    return await future
