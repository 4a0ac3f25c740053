"""The trace of a request: its raw values and its encoded rows, as they were scored.

Only a request that may be logged has one. A job hands over references, so that nothing is copied
and nothing is computed before the answer is out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.features.arrays import Packed


class Trace:
    """The things that the request log needs of a request; it is filled on the event loop only."""

    __slots__ = (
        "body",
        "candidates",
        "context",
        "contexts",
        "instances",
        "key",
        "key_value",
        "row_context",
    )

    def __init__(self, body: bytes, key: str | None) -> None:
        """``key`` is the field of a context by which requests are chosen, if there is one."""
        self.body = body
        self.key = key
        self.key_value: Any = None
        """The key's value as it was sent: a profile's key need not be a field."""
        self.context: Mapping[str, Any] | None = None
        """The context of a list, with what its profile added."""
        self.instances: Sequence[Mapping[str, Any]] | None = None
        """The instance of each row, where values came from the store."""
        self.contexts: Sequence[bytes] = ()
        """The packed context rows."""
        self.candidates: Packed = b""
        """The packed candidate rows, one after the other."""
        self.row_context: Sequence[int] | None = None
        """The context of each row; None: all have the first."""

    def begin_list(self, context: Mapping[str, Any]) -> None:
        """Take a list's context before a profile fills it; the same object is logged."""
        self.context = context
        if self.key is not None:
            self.key_value = context.get(self.key)

    def take_rows(
        self, contexts: Sequence[bytes], candidates: Packed, row_context: Sequence[int] | None
    ) -> None:
        """Take the rows that were scored, which nobody changes any more."""
        self.contexts, self.candidates, self.row_context = contexts, candidates, row_context
