"""A load spread over processes, whose records are put together."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

from tests.load.client import Client, Load
from tests.load.errors import RunFailed
from tests.load.record import Record

_LEAD_SECONDS = 0.2


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
    context = multiprocessing.get_context("spawn")
    ends: list[Connection] = []
    processes = []
    for load in loads:
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, load), daemon=True)
        process.start()
        there.close()
        ends.append(here)
        processes.append(process)
    try:
        for end in ends:
            _receive(end)
        with _interrupting([process.pid for process in processes if process.pid]):
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
def _interrupting(pids: Sequence[int]) -> Iterator[None]:
    """Hand Ctrl-C on: the processes end early and answer; a terminal has told them anyway."""

    def hand_on(*_: object) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGINT)

    before = signal.signal(signal.SIGINT, hand_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(end: Connection, load: Load) -> None:
    """What a process does: say that it is there, wait for the start, run, answer."""
    # Until the event loop takes it, so that an early Ctrl-C does not cost the record.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end.send(None)
    start: float = end.recv()
    end.send(asyncio.run(Client(load, start).run()))
