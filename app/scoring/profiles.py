"""Profiles: stored context values, which fill what a request does not say of its user."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from app.features.keys import TextKey
from app.scoring.job import ScoringRequest
from app.scoring.steps import Steps

STEP_CONTEXTS = 64
"""Contexts that one step fills."""
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Profiles(Protocol):
    """The scorer's view of profiles. It is touched on the event loop only."""

    field: str
    """The field of a context that has the key."""
    known: bool
    """The spec has this field; otherwise it is a key and nothing else."""
    key: TextKey

    def remembered(self, keys: Sequence[str]) -> dict[str, bytes | None]:
        """Return the values that need no question, as JSON; None where there is no profile."""
        ...

    async def fetch(self, keys: Sequence[str], deadline: float) -> Mapping[str, bytes | None]:
        """Ask for profiles; a key that is not in the answer could not be looked up."""
        ...

    def count(self, found: int, absent: int, unavailable: int) -> None:
        """Count look-ups by their outcome."""
        ...


class ProfileFiller:
    """Fills contexts from profiles."""

    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles

    def fill(self, contexts: Sequence[dict[str, Any]], request: ScoringRequest) -> Steps[None]:
        """Give each context the fields of its profile that it does not have.

        A context without a key has no profile. Where the store does not answer, fields stay
        absent, and the request is told.
        """
        profiles = self._profiles
        keys = [profiles.key(each.get(profiles.field)) for each in contexts]
        asked = list(dict.fromkeys(key for key in keys if key is not None))
        found = profiles.remembered(asked)
        if len(found) < len(asked):
            missing = [key for key in asked if key not in found]
            fetching = asyncio.ensure_future(profiles.fetch(missing, request.deadline))
            yield fetching
            found.update(fetching.result())
        hits = absent = unavailable = 0
        for place, (context, key) in enumerate(zip(contexts, keys, strict=True)):
            if place % STEP_CONTEXTS == 0 and place:
                yield None
            if not profiles.known:
                context.pop(profiles.field, None)
            if key is None:
                continue
            if key not in found:
                unavailable += 1
            elif (values := found[key]) is None:
                absent += 1
            else:
                hits += 1
                for name, value in _decode(values).items():
                    context.setdefault(name, value)
        profiles.count(hits, absent, unavailable)
        request.without_profiles |= unavailable > 0
