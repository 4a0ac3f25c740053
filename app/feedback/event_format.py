"""Events as callers send them, and as their file has them."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

EVENTS = re.compile(r"events-[^/]*\.jsonl")
"""Names of files of events."""
Id = Annotated[str, Meta(max_length=512)]


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event: a candidate was seen, clicked or not; other keys are ignored.

    ``index`` is its place in the request, ``id`` the caller's own name for it. ``label`` is 1 for
    a click and 0 for none; without one, ``shown`` says that it was seen. ``time`` is in seconds
    since 1970; ``version`` and ``score`` are what the answer said.
    """

    request_id: Annotated[str, Meta(min_length=1, max_length=128)]
    index: Annotated[int, Meta(ge=0, lt=2**31)] | None = None
    id: int | Id | None = None
    label: Literal[0, 1] | None = None
    shown: bool = False
    time: Annotated[float, Meta(ge=0, lt=2**33)] | None = None
    version: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    score: Annotated[float, Meta(ge=0, le=1)] | None = None

    def __post_init__(self) -> None:
        if self.index is None and self.id is None:
            raise ValueError("expected index or id, by which the candidate is found")
        if self.label is None and not self.shown:
            raise ValueError("expected a label, or shown that is true")


class LoggedEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event in its file; ``received`` is when it came, in seconds since 1970."""

    received: float
    event: Event


decode_event = msgspec.json.Decoder(LoggedEvent).decode
event_decoder = msgspec.json.Decoder(Event)
encode_event = msgspec.json.Encoder().encode
