"""Work off the loop gives its result or its error, and holds up nothing where it hangs."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading

import pytest

from app.off_loop import KeptThread, run_off_loop, start_off_loop
from tests.support.serving import ROOT

pytestmark = pytest.mark.anyio


async def test_its_result_comes_back() -> None:
    """From a thread that is not the loop's."""
    assert await run_off_loop(threading.get_ident) != threading.get_ident()


async def test_its_error_comes_back() -> None:
    """As it was raised."""

    def fail() -> None:
        raise FileNotFoundError("here")

    with pytest.raises(FileNotFoundError, match="here"):
        await run_off_loop(fail)


async def test_nobody_may_wait_any_longer() -> None:
    """A caller who is cancelled leaves; what the work gives then is dropped."""
    released = threading.Event()
    waiting = asyncio.create_task(run_off_loop(released.wait))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    released.set()
    assert await run_off_loop(lambda: 1) == 1


async def test_an_error_that_nobody_waits_for_is_not_told() -> None:
    """Whoever awaits it has the error; where nobody does, the loop has nothing to complain of."""
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    for awaited in (True, False):
        failing = start_off_loop(lambda: 1 // 0)
        if awaited:
            with pytest.raises(ZeroDivisionError):
                await failing
        await asyncio.wait([failing])
        del failing
        await asyncio.sleep(0)
        gc.collect()
    assert told == []


def test_a_process_ends_while_work_hangs() -> None:
    """At the end of the loop and of the interpreter its thread is not waited for."""
    program = (
        "import asyncio, threading\n"
        "from app.off_loop import run_off_loop\n"
        "async def main():\n"
        "    task = asyncio.create_task(run_off_loop(threading.Event().wait))\n"
        "    await asyncio.sleep(0.05)\n"
        "asyncio.run(main())\n"
        "print('ended')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


async def test_a_kept_thread_does_one_work_after_the_other() -> None:
    """In one thread; errors are raised; one that hangs is replaced, and ends once it goes on."""
    kept = KeptThread()
    first, second = await asyncio.gather(
        kept.run(threading.get_ident), kept.run(threading.get_ident)
    )
    assert first == second != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await kept.run(lambda: 1 // 0)
    gate = threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await kept.run(gate.wait)
    kept.leave()
    assert await kept.run(threading.get_ident) != first
    gate.set()
    kept.leave()
    async with asyncio.timeout(10):
        while any(  # noqa: ASYNC110
            each.name == "off the loop, kept" for each in threading.enumerate()
        ):
            await asyncio.sleep(0.01)
