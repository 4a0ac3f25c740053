"""A load spread over processes, whose records are put together."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

from tests.load.client import Client, Load
from tests.load.errors import RunFailed
from tests.load.record import Record

_LEAD_SECONDS = 0.2
_NEW_PROCESS = "fork" if sys.platform == "linux" else "spawn"
"""A forked process need not import all anew, which takes a third of a second; elsewhere libraries
of the system may not be forked."""


def spread(load: Load, processes: int) -> list[Load]:
    """Divide a load: every n-th due moment goes to the same process."""
    return [
        replace(
            load,
            due=load.due[number::processes],
            connections=len(range(number, load.connections, processes)),
            seed=load.seed + number,
        )
        for number in range(processes)
    ]


def run(loads: Sequence[Load]) -> Record:
    """Run the loads at the same time, each in a process of its own.

    Ctrl-C ends all of them early; the record then holds what was seen so far.

    Raises:
        RunFailed: a process ended without a record.
    """
    context = multiprocessing.get_context(_NEW_PROCESS)
    ends: list[Connection] = []
    processes = []
    for load in loads:
        here, there = context.Pipe()
        ends.append(here)
        process = context.Process(target=_work, args=(there, load, ends), daemon=True)
        process.start()
        there.close()
        processes.append(process)
    try:
        for end in ends:
            _receive(end)
        with _interrupting(ends):
            start = monotonic() + _LEAD_SECONDS + loads[0].warmup
            for end in ends:
                end.send(start)
            records: list[Record] = [_receive(end) for end in ends]
    finally:
        for process in processes:
            process.terminate()
            process.join()
    total = records[0]
    for record in records[1:]:
        total.merge(record)
    return total


def _receive(end: Connection) -> Any:
    try:
        return end.recv()
    except EOFError:
        raise RunFailed("a process of the load generator ended without a record") from None


@contextmanager
def _interrupting(ends: Sequence[Connection]) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a word to the processes, which then answer early."""

    def stop(*_: object) -> None:
        for end in ends:
            # One that has answered may be gone.
            with suppress(OSError):
                end.send(None)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(end: Connection, load: Load, ends_of_first: Sequence[Connection]) -> None:
    """Be a process of the run: say that it is there, wait for the start, run, answer."""
    # Held open here too, they would hide from the others that the first process has ended.
    for each in ends_of_first:
        each.close()
    # A terminal sends Ctrl-C to every process; the first one tells the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    client = Client(load)
    asyncio.run(client.rehearse())
    end.send(None)
    record = asyncio.run(_perform(end, client, end.recv()))
    # The other side may have died.
    with suppress(BrokenPipeError):
        end.send(record)


async def _perform(end: Connection, client: Client, start: float) -> Record:
    """Run until done, or until anything comes from the other side, be it that it has died."""
    loop = asyncio.get_running_loop()

    def heard() -> None:
        loop.remove_reader(end.fileno())
        client.interrupt()

    loop.add_reader(end.fileno(), heard)
    return await client.run(start)
