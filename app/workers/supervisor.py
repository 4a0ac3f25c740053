"""Several worker processes on one port: a supervisor starts them, and replaces those that die.

Each worker listens on sockets of its own; the kernel distributes new connections among them. The
supervisor keeps all sockets open, so that connections to a dead worker's socket wait for its
successor instead of being refused. Workers are forks: memory that was filled before the fork is
shared as long as no process writes to it.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from app import logs
from app.backoff import Backoff
from app.workers.children import reap
from app.workers.shared_numbers import SharedNumbers
from app.workers.signals import stops

STEADY_SECONDS = 30.0
"""A worker that lived this long did not fail at its start: its successor starts at once."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Pauses before a successor starts; the first worker that dies is replaced at once."""
GRACE_SECONDS = 5.0
"""Time that workers have beyond their own time to drain before they are killed."""
log = logging.getLogger(__name__)


class WorkerResources(NamedTuple):
    """The resources that a worker gets from its supervisor.

    ``alive`` is the end of a pipe that becomes readable when the supervisor ends.
    """

    number: int
    listeners: list[socket.socket]
    alive: int
    shared: SharedNumbers


@dataclass
class _Worker:
    number: int
    listeners: list[socket.socket]
    pid: int = 0
    started: float = 0.0
    backoff: Backoff = field(
        default_factory=lambda: Backoff(FIRST_PAUSE, LONGEST_PAUSE, at_once=True)
    )
    due: float = field(default_factory=monotonic)


class Supervisor:
    """Keeps ``len(listeners)`` workers running; each calls ``work`` and ends with its exit code.

    A worker that ends with an error before all have been ready once ends the service: its
    successor would fail the same way.
    """

    def __init__(
        self,
        listeners: list[list[socket.socket]],
        shared: SharedNumbers,
        work: Callable[[WorkerResources], int],
        drain_seconds: float,
    ) -> None:
        self._workers = [_Worker(number, each) for number, each in enumerate(listeners)]
        self._shared = shared
        self._stops = stops()
        self._work = work
        self._drain = drain_seconds + GRACE_SECONDS
        self._end: float | None = None
        self._code = 0

    def run(self) -> int:
        """Supervise until a signal; return the exit code."""
        self._alive, self._held = os.pipe()
        wakes, wake = os.pipe()
        for end in (wakes, wake):
            os.set_blocking(end, False)
        for awaited in (*self._stops, signal.SIGCHLD):
            signal.signal(awaited, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        # Children may have ended before there was a handler.
        self._reap()
        # All workers share the memory that is filled by now: the collector must not write to it.
        gc.collect()
        gc.freeze()
        while self._end is None or any(worker.pid for worker in self._workers):
            self._start_due()
            select.select([wakes], [], [], self._patience())
            try:
                numbers = os.read(wakes, 4096)
            except BlockingIOError:
                numbers = b""
            for number in numbers:
                if number in self._stops:
                    self._stop()
            self._reap()
            if self._end is not None and monotonic() > self._end:
                self._tell(signal.SIGKILL)
        return self._code

    def _patience(self) -> float | None:
        """Return the seconds until something is due, or None if nothing is."""
        waiting = [worker.due for worker in self._workers if not worker.pid]
        due = min(waiting, default=None) if self._end is None else self._end
        return None if due is None else max(0.0, due - monotonic()) + 0.01

    def _start_due(self) -> None:
        for worker in self._workers:
            if self._end is None and not worker.pid and monotonic() >= worker.due:
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        """Fork; signals are blocked until the worker has set up its handlers."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._stops)
        worker.started = monotonic()
        worker.pid = os.fork()
        if worker.pid == 0:
            self._become(worker)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._stops)

    def _become(self, worker: _Worker) -> None:
        """In the new process: do the work and end, without returning to the supervisor's code."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (*self._stops, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            # Ctrl-C in a terminal reaches the whole process group: only the supervisor handles it.
            os.setpgid(0, 0)
            os.close(self._held)
            for other in self._workers:
                if other is not worker:
                    close_all(other.listeners)
            self._shared.begin_worker(worker.number)
            code = self._work(
                WorkerResources(worker.number, worker.listeners, self._alive, self._shared)
            )
        except BaseException:
            log.exception("worker %d failed", worker.number + 1)
        finally:
            logs.flush()
            os._exit(code)

    def _reap(self) -> None:
        """Note the workers that have ended; other children are none of the service's."""
        workers = {worker.pid: worker for worker in self._workers if worker.pid}
        for pid, code in reap():
            if pid in workers:
                self._ended(workers[pid], code)

    def _ended(self, worker: _Worker, code: int) -> None:
        worker.pid = 0
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        if self._end is not None:
            if code:
                log.error("worker %d ended %s", worker.number + 1, how)
                self._code = 1
            return
        if not self._shared.started and code > 0:
            log.error("worker %d ended %s before the service was ready", worker.number + 1, how)
            self._code = 1
            self._stop()
            return
        if monotonic() - worker.started >= STEADY_SECONDS:
            worker.backoff.reset()
            pause = 0.0
        else:
            pause = worker.backoff.fail()
        worker.due = monotonic() + pause
        log.error(
            "worker %d ended %s; its successor starts in %.1f s", worker.number + 1, how, pause
        )

    def _stop(self) -> None:
        """Have every worker drain and stop; at a second call, without draining."""
        if self._end is None:
            self._end = monotonic() + self._drain
            # Connections that are not accepted yet are refused from now on.
            for worker in self._workers:
                close_all(worker.listeners)
        self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.pid:
                os.kill(worker.pid, number)


def close_all(sockets: list[socket.socket]) -> None:
    """Close sockets."""
    for each in sockets:
        each.close()
