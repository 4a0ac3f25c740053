"""Notices an engine run that does not end."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread
from time import monotonic

CHECKS = 10
"""Looks at a run within the time that it may take."""


class RunWatch:
    """Watches the runs of one engine from a thread of its own.

    A run that hangs in native code holds the engine's thread or the event loop, so neither of them
    can watch. ``hung`` is called on the watching thread, once, with the run's number and whether
    it holds the loop. Only time in which the watching thread itself runs counts: after SIGSTOP, or
    a pause of the whole machine, no run is late.
    """

    def __init__(self, seconds: float, hung: Callable[[int, bool], None]) -> None:
        """A run of more than ``seconds`` hangs."""
        self._seconds = seconds
        self._hung = hung
        self._stopped = Event()
        self._number = 0
        self._on_loop = False
        self.run = 0
        """The number of the run under way; 0 between runs."""

    def start(self) -> None:
        """Start to watch."""
        Thread(target=self._watch, name="engine watch", daemon=True).start()

    def stop(self) -> None:
        """Stop watching; ``hung`` is no longer called."""
        self._stopped.set()
        self._hung = _do_nothing

    def begin(self, on_loop: bool) -> None:
        """Note that a run begins. There is one at a time."""
        self._number += 1
        self._on_loop = on_loop
        self.run = self._number

    def end(self) -> None:
        """Note that the run has ended."""
        self.run = 0

    def _watch(self) -> None:
        step = self._seconds / CHECKS
        seen, spent, before = 0, 0.0, monotonic()
        while not self._stopped.wait(step):
            now, run = monotonic(), self.run
            if run == 0 or run != seen:
                seen, spent = run, 0.0
            else:
                # A longer gap is time in which this process did not run.
                spent += min(now - before, 2 * step)
                if spent >= self._seconds:
                    self._hung(run, self._on_loop)
                    return
            before = now


def _do_nothing(run: int, on_loop: bool) -> None:
    pass
