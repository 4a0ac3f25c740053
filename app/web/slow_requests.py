"""Tells the log which requests were slow, and what their time went into."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import inf

from app.logs import LogLimit

log = logging.getLogger(__name__)


class SlowRequests:
    """One line for a request that took more than ``seconds``, at most one line a second."""

    def __init__(self, milliseconds: int) -> None:
        """``milliseconds`` is the bound; 0 means that no request is slow."""
        self.seconds = milliseconds / 1000 or inf
        self._limit = LogLimit()

    def tell(self, fields: Mapping[str, object]) -> None:
        """Write a slow request's line, unless there was one just now."""
        self._limit.log(log, logging.WARNING, "slow request", fields=fields)
