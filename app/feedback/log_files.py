"""Files of the request log: closed by size and time, renamed when closed, within a budget.

A worker writes files of its own. Each write is a whole gzip member: what is before it can be read,
whatever becomes of the rest. A file in use is locked; one whose process was killed is closed by the
next worker that starts.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import time

from app.feedback.log_format import CLOSED, OPEN, PREFIX
from app.files import put_in_place

ROLL_BYTES, LEAST_ROLL_BYTES = 64 * 2**20, 16 * 2**10
"""Size at which a file is closed: an eighth of the worker's part of the budget, within these."""
ROLL_SECONDS = 600.0
"""Age at which a file is closed."""
COMPRESSION = 2
"""Lines are a tenth longer than at zlib's default, and take less than half of its time."""


class LogFiles:
    """The files of one worker in the directory of the log. One thread uses it."""

    def __init__(
        self,
        directory: Path,
        budget: int,
        workers: int = 1,
        roll_seconds: float = ROLL_SECONDS,
        clock: Callable[[], float] = time,
    ) -> None:
        """``budget`` bounds the bytes of the directory's log files, of all workers."""
        self._directory, self._budget = directory, budget
        self._roll_bytes = max(LEAST_ROLL_BYTES, min(ROLL_BYTES, budget // (8 * workers)))
        self._roll_seconds, self._clock = roll_seconds, clock
        self._descriptor = -1
        self._path = directory
        self._size, self._begun = 0, 0.0

    @property
    def is_new(self) -> bool:
        """True if the next write begins a file."""
        return self._descriptor < 0

    def write(self, lines: bytes) -> int:
        """Write whole lines; return the bytes that they take.

        Raises:
            OSError: they cannot be written, or not all of them: none of them is in the file.
        """
        member = gzip.compress(lines, COMPRESSION, mtime=0)
        if self.is_new:
            self._open()
        try:
            _write_all(self._descriptor, member)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(member)
        if self._size >= self._roll_bytes:
            self.close()
        return len(member)

    def close_old(self) -> None:
        """Close the file in use if it is old enough.

        Raises:
            OSError: it cannot be closed.
        """
        if not self.is_new and self._clock() - self._begun >= self._roll_seconds:
            self.close()

    def close(self) -> None:
        """Close the file in use and give it its name; the oldest closed ones go.

        Raises:
            OSError: that cannot be done.
        """
        if not self.is_new:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
            put_in_place(self._path, self._path.with_suffix(""))
        self._make_room()

    def close_abandoned(self) -> None:
        """Close the files of processes that are gone.

        Raises:
            OSError: the directory cannot be used.
        """
        for path in self._directory.glob(f"{PREFIX}*{CLOSED}{OPEN}"):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                put_in_place(path, path.with_suffix(""))
            except (BlockingIOError, FileNotFoundError):
                # Its process lives, or another worker was faster.
                pass
            finally:
                os.close(descriptor)

    def _open(self) -> None:
        now = self._clock()
        moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%f")
        name = f"{PREFIX}{moment}-{secrets.token_hex(4)}{CLOSED}{OPEN}"
        self._path, self._begun, self._size = self._directory / name, now, 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o640)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def _make_room(self) -> None:
        """Delete the oldest closed files while all of them have more bytes than the budget."""
        closed, total = [], 0
        for entry in os.scandir(self._directory):
            if entry.name.startswith(PREFIX):
                try:
                    size = entry.stat().st_size
                except FileNotFoundError:
                    continue
                total += size
                if entry.name.endswith(CLOSED):
                    closed.append((entry.name, size))
        for name, size in sorted(closed):
            if total <= self._budget:
                break
            (self._directory / name).unlink(missing_ok=True)
            total -= size


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
