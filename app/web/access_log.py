"""Lines about requests that have been answered: none, those of errors, or all."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import inf
from typing import Literal

from app.logs import FIELDS, LogLimit

Mode = Literal["off", "errors", "all"]
ERRORS_PER_SECOND = 20
PATH_LENGTH = 200
PROBES = ("/live", "/ready")
_log = logging.getLogger(__name__)


class AccessLog:
    """Logs answers from ``least_status`` on.

    Lines of errors are limited to ``ERRORS_PER_SECOND``, as callers can cause any number of them;
    the lines of all requests are limited by what the log can hold until it is read.
    """

    def __init__(self, mode: Mode = "off") -> None:
        self.least_status = {"off": inf, "errors": 400, "all": 0}[mode]
        self._limit = LogLimit(lines=ERRORS_PER_SECOND)
        self._limited = mode == "errors"

    def wants(self, path: str, status: int) -> bool:
        """True if a request that did not score gets a line.

        A probe that is answered with 503 is not a refused request: only ``all`` has its line.
        """
        return status >= self.least_status and not (self._limited and path in PROBES)

    def log(self, fields: Mapping[str, object]) -> None:
        """Write a line with these fields."""
        if self._limited:
            self._limit.log(_log, logging.INFO, "request", fields=fields)
        else:
            _log.info("request", extra={FIELDS: fields})
