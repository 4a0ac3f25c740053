"""Logs which requests were slow, and what their time went into."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import inf

from app.logs import LogLimit

_log = logging.getLogger(__name__)


class SlowRequests:
    """A line for a request that took more than ``seconds``, at most one line a second."""

    def __init__(self, milliseconds: int) -> None:
        """``milliseconds`` is the bound; 0 means that no request is slow."""
        self.seconds = milliseconds / 1000 or inf
        self._limit = LogLimit()

    def log(self, fields: Mapping[str, object]) -> None:
        """Write a slow request's line, unless the limit of lines is reached."""
        self._limit.log(_log, logging.WARNING, "slow request", fields=fields)
