"""The log's format: one line of JSON for each event."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from time import monotonic

FIELDS = "fields"
"""The ``extra`` of a log call under which it gives a dict of more fields for its line."""


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


class Seldom:
    """Lets through one line per ``seconds``, so that a flood of problems is none of the log's."""

    def __init__(self, seconds: float = 1.0, clock: Callable[[], float] = monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._next = -inf
        self._held_back = 0

    def passes(self) -> int | None:
        """Say how many lines were held back since the last, if the next one may be written."""
        now = self._clock()
        if now < self._next:
            self._held_back += 1
            return None
        self._next = now + self._seconds
        held_back, self._held_back = self._held_back, 0
        return held_back


class SeldomWarnings(logging.Filter):
    """Lets a logger's warnings through as :class:`Seldom` does, with how many were held back."""

    def __init__(self, seldom: Seldom) -> None:
        super().__init__()
        self._seldom = seldom

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        held_back = self._seldom.passes()
        if held_back:
            record.msg = f"{record.getMessage()} (and {held_back} times more)"
            record.args = None
        return held_back is not None


def set_up(level: str) -> None:
    """Send all logs to standard error in this format."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # What uvicorn warns of, strangers can cause: bytes that are no HTTP.
    logging.getLogger("uvicorn.error").addFilter(SeldomWarnings(Seldom()))
