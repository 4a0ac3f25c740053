"""The mark that a vocabulary is in use: ``prune`` and ``unpublish`` leave it alone."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence

from app.errors import Problem
from app.metrics.counters import Counts
from app.remote.link import Command, ErrorReply, Reply
from app.remote.redis_layout import IN_USE_SECONDS, in_use

log = logging.getLogger(__name__)


class InUseMark:
    """A key with an expiry, written with every probe.

    Redis may refuse the write for a while (a replica, out of memory, too few replicas, a missing
    right) and still answer every look-up. So a refusal does not keep the vocabulary from being
    used, and the next probe tries again; ``problem`` is what is wrong until one succeeds. Once
    refused, the key's expiry is renewed too: Redis takes that even while it is out of memory.
    """

    def __init__(self, vocabulary_hash: str, errors: Counts) -> None:
        self._key = in_use(vocabulary_hash)
        self._user = f"{socket.gethostname()}:{os.getpid()}"
        self._errors = errors
        self._refusal: str | None = None
        self.problem: Problem | None = None

    def commands(self) -> list[Command]:
        """Return the commands that write the mark."""
        write: Command = ("SET", self._key, self._user, "EX", IN_USE_SECONDS)
        renew: Command = ("EXPIRE", self._key, IN_USE_SECONDS)
        return [write] if self._refusal is None else [renew, write]

    def note(self, replies: Sequence[Reply]) -> None:
        """Take the replies to :meth:`commands`."""
        *renewed, written = replies
        if not isinstance(written, ErrorReply):
            if self._refusal is not None:
                log.info("the vocabulary is marked as in use again")
            self._refusal = self.problem = None
            return
        self._errors.add("mark")
        still_marked = renewed == [1]
        if self._refusal != written.code:
            self._refusal = written.code
            log.warning(
                "the vocabulary cannot be marked as in use%s: %s",
                "; the mark is there and its expiry renewed"
                if still_marked
                else "; prune may remove it",
                written,
            )
        self.problem = None if still_marked else _not_marked(written)


def _not_marked(reply: ErrorReply) -> Problem:
    return Problem(
        "Redis refuses to mark the vocabulary as in use, so prune may remove it", str(reply)
    )
