"""Several processes on one port: a supervisor starts them, watches them and replaces the dead.

Each worker listens on a socket of its own; the kernel deals new connections out among them. The
supervisor keeps all sockets open, so that connections to a dead worker's wait for its successor
instead of being refused. Workers are forks: what was loaded before is there once, as long as
nobody writes to it.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from app.backoff import Backoff
from app.workers.shared_numbers import SharedNumbers

STEADY_SECONDS = 30.0
"""A worker that lived so long did not fail at its start: its successor need not wait."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a successor starts: of the first worker that soon died again, and at most."""
GRACE_SECONDS = 5.0
"""What workers have beyond their own time to drain before they are killed."""
_STOPS = (signal.SIGTERM, signal.SIGINT)
log = logging.getLogger(__name__)


class WorkerResources(NamedTuple):
    """What a worker is given: its number, its socket, and a pipe that ends with the supervisor."""

    number: int
    listener: socket.socket
    alive: int
    shared: SharedNumbers


@dataclass
class _Worker:
    number: int
    listener: socket.socket
    pid: int = 0
    started: float = 0.0
    backoff: Backoff = field(
        default_factory=lambda: Backoff(FIRST_PAUSE, LONGEST_PAUSE, at_once=True)
    )
    due: float = field(default_factory=monotonic)


def bind(host: str, port: int, count: int) -> list[socket.socket]:
    """Bind sockets to one address; once they listen, the kernel deals connections out to them.

    Raises:
        OSError: it cannot be had.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sockets: list[socket.socket] = []
    for _ in range(count):
        listener = socket.socket(family, socket.SOCK_STREAM)
        sockets.append(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if len(sockets) > 1:
            # Only the first without it: a port that another service has is not shared with it.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        if len(sockets) == 1:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            address = listener.getsockname()
    return sockets


class Supervisor:
    """Keeps ``len(listeners)`` workers running; ``work`` is what each does, giving an exit code.

    A worker that ends with an error before all have been ready once ends the service: what is
    wrong would be wrong with its successor too.
    """

    def __init__(
        self,
        listeners: list[socket.socket],
        shared: SharedNumbers,
        work: Callable[[WorkerResources], int],
        drain_seconds: float,
    ) -> None:
        self._workers = [_Worker(number, each) for number, each in enumerate(listeners)]
        self._shared = shared
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
        for awaited in (*_STOPS, signal.SIGCHLD):
            signal.signal(awaited, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        # What is there now is what all workers share: the collector must not write to it.
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
                if number in _STOPS:
                    self._stop()
            self._reap()
            if self._end is not None and monotonic() > self._end:
                self._tell(signal.SIGKILL)
        return self._code

    def _patience(self) -> float | None:
        """Seconds until something is due."""
        waiting = [worker.due for worker in self._workers if not worker.pid]
        due = min(waiting, default=None) if self._end is None else self._end
        return None if due is None else max(0.0, due - monotonic()) + 0.01

    def _start_due(self) -> None:
        for worker in self._workers:
            if self._end is None and not worker.pid and monotonic() >= worker.due:
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        """Fork; signals wait until the worker knows what to do with them."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        worker.started = monotonic()
        worker.pid = os.fork()
        if worker.pid == 0:
            self._become(worker)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    def _become(self, worker: _Worker) -> None:
        """In the new process: do the work and end, without what the supervisor had yet to do."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (*_STOPS, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            # Ctrl-C in a terminal reaches the whole group: only the supervisor shall hear it.
            os.setpgid(0, 0)
            os.close(self._held)
            for other in self._workers:
                if other is not worker:
                    other.listener.close()
            self._shared.begin_worker(worker.number)
            code = self._work(
                WorkerResources(worker.number, worker.listener, self._alive, self._shared)
            )
        except BaseException:
            log.exception("worker %d failed", worker.number + 1)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        by_pid = {worker.pid: worker for worker in self._workers if worker.pid}
        while by_pid:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._ended(by_pid.pop(pid), os.waitstatus_to_exitcode(status))

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
        """Have every worker stop; at a second call they wait for nobody any more."""
        if self._end is None:
            self._end = monotonic() + self._drain
            # What has not been accepted yet is refused: nobody will.
            for worker in self._workers:
                worker.listener.close()
        self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.pid:
                os.kill(worker.pid, number)
