"""Tells the log which requests were slow, and what their time went into."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import inf

from app.logs import FIELDS, Seldom

log = logging.getLogger(__name__)


class SlowRequests:
    """One line for a request that took more than ``seconds``, at most one line a second."""

    def __init__(self, milliseconds: int) -> None:
        """``milliseconds`` is the bound; 0 means that no request is slow."""
        self.seconds = milliseconds / 1000 or inf
        self._seldom = Seldom()

    def tell(self, fields: Mapping[str, object]) -> None:
        """Write a slow request's line, unless there was one just now."""
        held_back = self._seldom.passes()
        if held_back is not None:
            log.warning(
                "slow request", extra={FIELDS: {**fields, "slow_requests_not_told": held_back}}
            )
