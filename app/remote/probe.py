"""The probe of Redis: is the bundle's vocabulary there, whole and the same?"""

from __future__ import annotations

import random
from collections.abc import Mapping

from app.errors import LinkError, Problem
from app.metrics.counters import Counts
from app.remote.in_use import InUseMark
from app.remote.link import Command, ErrorReply, Link, Reply
from app.remote.lookup import Lookup, Miss
from app.remote.redis_layout import REGISTER, SENTINEL, Entry, RegisterError, SlotKeys

PROBE_SECONDS = 1.0
"""Time limit of a probe. No request waits for one, and it may have to connect."""


class Probe:
    """Asks Redis for the vocabulary's register entry and one bucket of each slot.

    Each probe also writes the mark that the vocabulary is in use. ``witnesses`` are values whose
    rows the bundle knows; Redis must give the same ones before look-ups begin.
    """

    def __init__(
        self,
        vocabulary_hash: str,
        slots: Mapping[str, SlotKeys],
        link: Link,
        lookup: Lookup,
        errors: Counts,
    ) -> None:
        self._hash, self._slots = vocabulary_hash, slots
        self._link, self._lookup, self._errors = link, lookup, errors
        self.mark = InUseMark(vocabulary_hash, errors)
        self.witnesses: Mapping[Miss, int] = {}

    async def run(self, closed: bool) -> Problem | None:
        """Return what is wrong, or None; ``closed``: look-ups are under way already."""
        buckets = [(keys, random.randrange(keys.buckets)) for keys in self._slots.values()]
        questions: list[Command] = [("HGET", REGISTER, self._hash)]
        questions += [("HMGET", keys.name(bucket), SENTINEL) for keys, bucket in buckets]
        try:
            replies = await self._link.ask([*questions, *self.mark.commands()], PROBE_SECONDS)
            entry, *sentinels = replies[: len(questions)]
            self.mark.note(replies[len(questions) :])
            if (problem := self._wrong_entry(entry)) is not None:
                return problem
            for (keys, bucket), reply in zip(buckets, sentinels, strict=True):
                if isinstance(reply, ErrorReply):
                    return reply.problem
                if reply != [keys.sentinel(bucket)]:
                    return Problem(f"values of {keys.slot.name!r} are missing from Redis")
            return None if closed else await self._wrong_witness()
        except LinkError as error:
            self._errors.add(error.reason)
            return error.problem

    def _wrong_entry(self, reply: Reply) -> Problem | None:
        name = f"vocabulary {self._hash[:12]}"
        if isinstance(reply, ErrorReply):
            return reply.problem
        if reply is None:
            return Problem(f"{name} is not published")
        try:
            entry = Entry.decode(reply)
        except RegisterError as error:
            return Problem("the register of vocabularies cannot be read", str(error))
        if entry.state != "complete":
            return Problem(f"{name} is still being published")
        if entry.buckets != {keys.number: keys.buckets for keys in self._slots.values()}:
            return Problem(f"{name} is published in another layout")
        return None

    async def _wrong_witness(self) -> Problem | None:
        """Compare Redis with the bundle for the values that the bundle knows."""
        answers = await self._lookup.ask(list(self.witnesses), PROBE_SECONDS)
        for miss, row in self.witnesses.items():
            if answers.get(miss) != row:
                return Problem(f"Redis has another row than the bundle for a value of {miss[0]!r}")
        return None
