"""Work that may block for ever, such as reading a network disk that hangs, off the event loop."""

from __future__ import annotations

import _thread
import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

Result = TypeVar("Result")


async def run_off_loop(work: Callable[[], Result]) -> Result:
    """Return what ``work`` returns, which runs in a thread of its own; its errors are raised.

    Unlike ``asyncio.to_thread``, whose threads a process waits for at its end, a thread that hangs
    holds up neither the loop nor the end of the process.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()
    # Not a threading.Thread: its start keeps the loop waiting until the thread runs, which on a
    # busy machine is a while.
    _thread.start_new_thread(_work, (loop, future, work))
    return await future


def start_off_loop(work: Callable[[], Result]) -> asyncio.Task[Result]:
    """Begin ``work`` in a thread of its own; nobody need wait for it.

    Its error is raised where it is awaited; where nobody waits any longer, nobody is told of it.
    """
    task = asyncio.create_task(run_off_loop(work))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


def _work(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Result], work: Callable[[], Result]
) -> None:
    """Work, and tell the loop the outcome."""
    result, problem = None, None
    try:
        result = work()
    except BaseException as error:
        problem = error
    # The loop may be closed by now.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_settle, future, result, problem)


def _settle(
    future: asyncio.Future[Result], result: Result | None, error: BaseException | None
) -> None:
    if future.done():
        # Nobody waits any longer.
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)  # type: ignore[arg-type]


class KeptThread:
    """A thread that works off the event loop, one work after the other, and is kept for the next.

    Starting a thread costs more than a short work. One that hangs is left to itself.
    """

    def __init__(self) -> None:
        self._works: SimpleQueue[Callable[[], None] | None] | None = None

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns; its errors are raised."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        if self._works is None:
            self._works = SimpleQueue()
            run = partial(_work_on, self._works)
            threading.Thread(target=run, name="off the loop, kept", daemon=True).start()
        self._works.put(partial(_work, loop, future, work))
        return await future

    def leave(self) -> None:
        """Let the thread end after what it was given; the next work gets another one."""
        if self._works is not None:
            self._works.put(None)
            self._works = None


def _work_on(works: SimpleQueue[Callable[[], None] | None]) -> None:
    while (work := works.get()) is not None:
        work()
