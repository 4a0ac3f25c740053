"""The rows of values, asked of Redis in one round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.metrics.counters import Counts
from app.remote.link import Command, ErrorReply, Link
from app.remote.redis_layout import SENTINEL, Key, SlotKeys, text_of

Miss = tuple[str, Key]
"""A slot's name and a key of it."""
Answers = dict[Miss, int | None]
"""The row of each miss that was answered; None where the answer is no usable row."""


class Lookup:
    """Asks for values' rows and checks each answer; ``errors`` counts unusable ones by reason."""

    def __init__(self, slots: Mapping[str, SlotKeys], link: Link, errors: Counts) -> None:
        self._slots, self._link, self._errors = slots, link, errors

    async def ask(self, misses: Sequence[Miss], seconds: float) -> Answers:
        """Return what Redis answers; a value without an answer is left out.

        Raises:
            LinkError: Redis did not answer within so many seconds.
        """
        questions: list[tuple[SlotKeys, int]] = []
        commands: list[Command] = []
        for slot, key in misses:
            keys, text = self._slots[slot], text_of(key)
            bucket = keys.of(text)
            questions.append((keys, bucket))
            commands.append(("HMGET", keys.name(bucket), SENTINEL, text))
        answers: Answers = {}
        replies = await self._link.ask(commands, seconds)
        for miss, (keys, bucket), reply in zip(misses, questions, replies, strict=True):
            if isinstance(reply, ErrorReply):
                self._errors.add("refused")
                continue
            sentinel, content = reply
            if sentinel != keys.sentinel(bucket):
                # The bucket is not there, so an empty answer does not mean that the value is not.
                self._errors.add("sentinel")
            elif content is None:
                answers[miss] = keys.slot.oov
            elif (row := keys.row(content)) is not None:
                answers[miss] = row
            else:
                self._errors.add("value")
                answers[miss] = None
        return answers
