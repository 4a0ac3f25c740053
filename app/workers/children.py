"""Child processes that have ended: the service's workers, and those that it was given."""

from __future__ import annotations

import os
from collections.abc import Iterator


def reap() -> Iterator[tuple[int, int]]:
    """Yield the process id and the exit code of every child that has ended; by signal -N.

    A process may have children that it did not start: those of the shell that it replaced by
    ``exec``, and, as process 1 of a container, every orphan. Unless they are reaped they stay as
    zombies.
    """
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)
