"""The log: one line of JSON for each event, written in the background, and limits to floods."""

from __future__ import annotations

import json
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import inf
from time import monotonic

FIELDS = "fields"
"""The ``extra`` of a log call that holds a dict of more fields for its line."""


MOST_BYTES = 2**20
"""Log lines that wait to be written: some 4,000."""
FLUSH_SECONDS = 1.0
"""Time that a process that ends waits for its last lines to be read."""


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object on one line; a traceback stays inside it."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class LogLimit:
    """Writes at most ``lines`` in ``seconds``; the field ``left_out`` counts the lines before."""

    def __init__(
        self,
        seconds: float = 1.0,
        clock: Callable[[], float] = monotonic,
        lines: int = 1,
    ) -> None:
        self._seconds, self._clock, self._lines = seconds, clock, lines
        self._end = -inf
        self._written = 0
        self._left_out = 0

    def log(
        self,
        logger: logging.Logger,
        level: int,
        message: str,
        *args: object,
        fields: Mapping[str, object] | None = None,
    ) -> None:
        """Write a line with these fields, unless the limit is reached."""
        left_out = self._admit()
        if left_out is not None:
            extra = {FIELDS: {**(fields or {}), "left_out": left_out}}
            logger.log(level, message, *args, extra=extra)

    def filter(self, record: logging.LogRecord) -> bool:
        """Limit a logger's warnings: for ``Logger.addFilter``."""
        if record.levelno != logging.WARNING:
            return True
        left_out = self._admit()
        if left_out is None:
            return False
        setattr(record, FIELDS, {**getattr(record, FIELDS, {}), "left_out": left_out})
        return True

    def _admit(self) -> int | None:
        """Return how many lines were left out since the last one, or None to leave this one out."""
        now = self._clock()
        if now >= self._end:
            self._end, self._written = now + self._seconds, 0
        if self._written == self._lines:
            self._left_out += 1
            return None
        self._written += 1
        left_out, self._left_out = self._left_out, 0
        return left_out


class BackgroundHandler(logging.Handler):
    """Writes lines to a descriptor on a thread of its own: logging never waits for who reads them.

    Up to ``most_bytes`` of lines wait to be written. Beyond that lines are dropped and counted,
    and a line with their number follows as soon as there is room again. After a fork the child
    has a thread of its own, and leaves the lines that wait to the parent.
    """

    def __init__(self, descriptor: int, most_bytes: int = MOST_BYTES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._most_bytes = most_bytes
        self._dropped_in_all = 0
        self._start_over()
        os.register_at_fork(after_in_child=self._start_over)

    def _start_over(self) -> None:
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._encoded(record)
        except Exception:
            self.handleError(record)
            return
        with self._changed:
            if self._bytes + len(line) > self._most_bytes:
                self._drop(1)
                return
            self._add(line)
            if self._thread is None:
                # A daemon: a reader that is stuck must not keep the process from ending.
                self._thread = threading.Thread(target=self._write, name="log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def take_dropped(self) -> int:
        """Return how many lines have been dropped since the last call."""
        with self._changed:
            dropped, self._dropped_in_all = self._dropped_in_all, 0
        return dropped

    def flush(self) -> None:
        """Wait until all lines are written, but not longer than ``FLUSH_SECONDS``."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes, FLUSH_SECONDS)

    def _encoded(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _add(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)

    def _drop(self, lines: int) -> None:
        self._dropped += lines
        self._dropped_in_all += lines

    def _write(self) -> None:
        """On the thread: write line after line."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._lines))
                line = self._lines.popleft()
            written = True
            try:
                self._write_all(line)
            except OSError:
                # The reader has gone, or the disk is full: there is nowhere to say so.
                written = False
            with self._changed:
                self._bytes -= len(line)
                if not written:
                    self._drop(1)
                elif self._dropped and not self._lines:
                    self._add(self._encoded(self._about(self._dropped)))
                    self._dropped = 0
                self._changed.notify_all()

    def _write_all(self, line: bytes) -> None:
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
            except BlockingIOError:
                # Another process has made the descriptor, which is shared, non-blocking.
                select.select([], [self._descriptor], [], FLUSH_SECONDS)

    @staticmethod
    def _about(dropped: int) -> logging.LogRecord:
        message = "log lines dropped: nothing read standard error fast enough"
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, message, (), None)
        setattr(record, FIELDS, {"dropped": dropped})
        return record


_handler = BackgroundHandler(2)


def set_up(level: str) -> None:
    """Send all logs to standard error, as JSON."""
    _handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[_handler], force=True)
    # Callers can cause uvicorn's warnings: with bytes that are not HTTP.
    logging.getLogger("uvicorn.error").addFilter(LogLimit().filter)


def take_dropped() -> int:
    """Return how many log lines this process has dropped since the last call."""
    return _handler.take_dropped()


def flush() -> None:
    """Write the lines that wait; a reader that is stuck is not waited for."""
    _handler.flush()
