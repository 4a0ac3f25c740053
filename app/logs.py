"""The log: one line of JSON for each event, and a limit for lines that callers can cause."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import inf
from time import monotonic

FIELDS = "fields"
"""The ``extra`` of a log call that holds a dict of more fields for its line."""


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
    """Writes at most one line per ``seconds``; its field ``left_out`` counts those before it."""

    def __init__(self, seconds: float = 1.0, clock: Callable[[], float] = monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._next = -inf
        self._left_out = 0

    def log(
        self,
        logger: logging.Logger,
        level: int,
        message: str,
        *args: object,
        fields: Mapping[str, object] | None = None,
    ) -> None:
        """Write a line with these fields, unless the last one was less than ``seconds`` ago."""
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
        if now < self._next:
            self._left_out += 1
            return None
        self._next = now + self._seconds
        left_out, self._left_out = self._left_out, 0
        return left_out


def set_up(level: str) -> None:
    """Send all logs to standard error in this format."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Callers can cause uvicorn's warnings: with bytes that are not HTTP.
    logging.getLogger("uvicorn.error").addFilter(LogLimit().filter)
