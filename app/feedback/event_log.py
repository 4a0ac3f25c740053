"""The log of events: an append-only file for each worker, synced before an event is accepted.

Events of several callers are written and synced together. Nothing is deleted: where the directory
has its budget, or the disk is full, events are refused.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from time import sleep
from typing import NamedTuple

from app.errors import EventsUnwritten
from app.feedback.event_format import EVENTS
from app.files import sync
from app.logs import LogLimit

GATHER_SECONDS = 0.004
"""Time for which events gather before they are synced together."""
ROLL_BYTES = 64 * 2**20
"""Size at which the next file is begun."""
log = logging.getLogger(__name__)


class _Waiting(NamedTuple):
    """Events of one caller, and the future that it waits for."""

    content: bytes
    loop: asyncio.AbstractEventLoop
    written: asyncio.Future[None]


class EventLog:
    """The events of one worker in the directory of all."""

    def __init__(self, directory: Path, budget: int) -> None:
        """``budget`` bounds the bytes of all files of events in the directory."""
        self._directory, self._budget = directory, budget
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._descriptor = -1
        self._size = 0
        self._limit = LogLimit(60.0)

    async def append(self, lines: bytes) -> None:
        """Write whole lines; they are on the disk once this returns.

        Raises:
            EventsUnwritten: they are not, or there is no room for them.
        """
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        if self._thread is None:
            # Not before: a fork has no thread but its own.
            self._thread = threading.Thread(target=self._work, name="events", daemon=True)
            self._thread.start()
        self._queue.put(_Waiting(lines, loop, written))
        await written

    def close(self) -> None:
        """Let the thread end once it has written what waits."""
        if self._thread is not None:
            self._queue.put(None)

    # The thread's part.

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            sleep(GATHER_SECONDS)
            gathered, ends = [first], False
            while not self._queue.empty():
                if (each := self._queue.get()) is None:
                    ends = True
                    break
                gathered.append(each)
            problem: EventsUnwritten | None = None
            try:
                self._write(b"".join(each.content for each in gathered))
            except EventsUnwritten as error:
                problem = error
                self._limit.log(log, logging.ERROR, "%s", error)
            except OSError as error:
                problem = EventsUnwritten("the disk takes no events")
                reason = error.strerror or error
                self._limit.log(log, logging.ERROR, "events cannot be written: %s", reason)
            _settle(gathered, problem)
            if ends:
                return

    def _write(self, content: bytes) -> None:
        """Write and sync.

        Raises:
            EventsUnwritten: the budget has no room.
            OSError: the disk takes nothing.
        """
        if self._used() + len(content) > self._budget:
            raise EventsUnwritten(f"the events have all of their {self._budget} bytes")
        if self._descriptor < 0 or self._size >= ROLL_BYTES or self._is_deleted():
            self._open()
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError:
            # After a failed sync nobody knows what is on the disk: the next events have another
            # file. Lines of these may stay, which costs nothing: their caller sends them again.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            self._leave()
            raise
        self._size += len(content)

    def _open(self) -> None:
        self._leave()
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        path = self._directory / f"events-{moment}-{secrets.token_hex(4)}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor, self._size = os.open(path, flags, 0o640), 0
        sync(self._directory)

    def _leave(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _is_deleted(self) -> bool:
        """True if somebody has deleted the file in use: what it takes would be lost."""
        return os.fstat(self._descriptor).st_nlink == 0

    def _used(self) -> int:
        """Return the bytes of all events in the directory."""
        used = 0
        for entry in os.scandir(self._directory):
            if EVENTS.fullmatch(entry.name):
                with suppress(FileNotFoundError):
                    used += entry.stat().st_size
        return used


def _settle(waiting: Sequence[_Waiting], problem: EventsUnwritten | None) -> None:
    """Tell all callers, each on its loop."""

    def settle(written: asyncio.Future[None]) -> None:
        if written.done():
            # Its caller has gone.
            return
        if problem is None:
            written.set_result(None)
        else:
            written.set_exception(EventsUnwritten(str(problem)))

    for each in waiting:
        # The loop may be closed by now.
        with suppress(RuntimeError):
            each.loop.call_soon_threadsafe(settle, each.written)
