"""Feedback: what became of the candidates that were served, told by those who showed them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic, time
from typing import NamedTuple

import msgspec

from app.errors import Detail, EventsUnwritten, Invalid, ServiceError, TooLarge
from app.feedback.event_format import Event, LoggedEvent, encode_event, event_decoder
from app.feedback.event_log import EventLog
from app.feedback.served import Served
from app.metrics.feedback import FeedbackCounts
from app.off_loop import run_off_loop
from app.scoring.decoding import decode, decode_part

MOST_EVENTS = 10_000
"""Events of one request."""
STEP_EVENTS = 256
"""Events that are read before others have their turn."""
MOST_DETAILS = 10
"""Wrong events that an answer names."""
LOOK_SECONDS = 1.0
"""Least time between two looks for versions that this worker does not know."""


class _Body(msgspec.Struct):
    events: list[msgspec.Raw]


_body_decoder = msgspec.json.Decoder(_Body)


class Taken(NamedTuple):
    """The outcome of a request: events that are on the disk, and those that are wrong."""

    accepted: int
    wrong: int
    details: Sequence[Detail]
    """The first of the wrong ones."""


class Feedback:
    """Takes events: writes them, then counts them."""

    def __init__(self, events: EventLog, counts: FeedbackCounts, served: Served) -> None:
        """Count events of the versions that were served before."""
        self._log, self._counts, self._served = events, counts, served
        self._next_look = 0.0
        for version in served.versions():
            counts.serve(version)

    async def serve(self, version: str) -> None:
        """Note that a version is served."""
        self._counts.serve(version)
        await run_off_loop(lambda: self._served.add(version))

    async def take(self, body: bytes) -> Taken:
        """Take the events of a body that are right; they are on the disk once this returns.

        Raises:
            ServiceError: the body is none, or no event of it is right.
            EventsUnwritten: the events cannot be kept; none is counted.
        """
        parts = decode(_body_decoder, body).events
        if len(parts) > MOST_EVENTS:
            raise TooLarge(f"more than {MOST_EVENTS} events")
        events, details, wrong = await _read(parts, body)
        self._counts.events.add("wrong", wrong)
        if not events:
            if wrong:
                raise Invalid("no event is right", details, wrong)
            return Taken(0, 0, ())
        now = round(time(), 3)
        lines = b"".join(encode_event(LoggedEvent(now, each)) + b"\n" for each in events)
        try:
            await self._log.append(lines)
        except EventsUnwritten:
            self._counts.events.add("unwritten", len(events))
            raise
        await self._count(events)
        return Taken(len(events), wrong, details)

    async def _count(self, events: Sequence[Event]) -> None:
        self._counts.events.add("accepted", len(events))
        versions = {each.version for each in events if each.version is not None}
        if not all(map(self._counts.knows, versions)):
            await self._look()
        for each in events:
            if each.version is not None and each.score is not None and each.label is not None:
                self._counts.count(each.version, each.score, each.label)

    async def _look(self) -> None:
        """Look for versions that only other workers, or other replicas, have served."""
        if monotonic() >= self._next_look:
            self._next_look = monotonic() + LOOK_SECONDS
            for version in await run_off_loop(self._served.versions):
                if not self._counts.knows(version):
                    self._counts.serve(version)

    def close(self) -> None:
        """Write what waits."""
        self._log.close()


async def _read(parts: Sequence[msgspec.Raw], body: bytes) -> tuple[list[Event], list[Detail], int]:
    """Return the events that are right, the first that are wrong, and how many those are."""
    events: list[Event] = []
    details: list[Detail] = []
    wrong = 0
    for place, part in enumerate(parts):
        if place % STEP_EVENTS == 0 and place:
            await asyncio.sleep(0)
        try:
            events.append(decode_part(event_decoder, body, part, "events", place))
        except ServiceError as error:
            wrong += 1
            if len(details) < MOST_DETAILS:
                details += error.details[:1] or [Detail(f"events[{place}]", str(error))]
    return events, details, wrong
