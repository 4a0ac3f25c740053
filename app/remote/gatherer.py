"""Look-ups of concurrent requests → few round trips."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")
ROUND_KEYS = 256
"""Keys of one round trip: enough to share its cost, too few to hold up the event loop."""
ROUNDS_AT_ONCE = 4


class _Round(Generic[Key, Answer]):
    """Keys that are asked for together, and the requests that wait for them."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.answers: Mapping[Key, Answer] = {}
        self._over = False
        self._waiting: list[asyncio.Future[None]] = []

    async def over(self) -> None:
        """Wait for the end of the round; a request that stops waiting affects no other."""
        if not self._over:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def end(self) -> None:
        """Wake all requests that wait."""
        self._over = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


class Gatherer(Generic[Key, Answer]):
    """Asks once for a key that several requests need, and for many keys in one round trip.

    There is no waiting time: while fewer than ``rounds_at_once`` round trips are under way, the
    keys of one turn of the event loop leave at once; otherwise they gather. A round trip belongs
    to no request: one that gives up or is cancelled only stops waiting.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Answer]]],
        round_keys: int = ROUND_KEYS,
        rounds_at_once: int = ROUNDS_AT_ONCE,
    ) -> None:
        self._ask = ask
        self._round_keys = round_keys
        self._rounds_at_once = rounds_at_once
        self._waiting: deque[_Round[Key, Answer]] = deque()
        self._asked: dict[Key, _Round[Key, Answer]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def fetch(self, keys: Iterable[Key], seconds: float) -> dict[Key, Answer]:
        """Return what is answered within ``seconds``."""
        rounds: dict[_Round[Key, Answer], list[Key]] = {}
        for key in keys:
            found = self._asked.get(key) or self._add(key)
            rounds.setdefault(found, []).append(key)
        try:
            async with asyncio.timeout(seconds):
                for each in rounds:
                    await each.over()
        except TimeoutError:
            pass
        return {
            key: each.answers[key]
            for each, wanted in rounds.items()
            for key in wanted
            if key in each.answers
        }

    def _add(self, key: Key) -> _Round[Key, Answer]:
        if not self._waiting or len(self._waiting[-1].keys) >= self._round_keys:
            self._waiting.append(_Round())
            if len(self._running) < self._rounds_at_once:
                # The task begins in the next turn of the loop, so others may still join.
                self._running.add(asyncio.create_task(self._run()))
        last = self._waiting[-1]
        last.keys.append(key)
        self._asked[key] = last
        return last

    async def _run(self) -> None:
        """Ask round after round until no round waits."""
        try:
            while self._waiting:
                current = self._waiting.popleft()
                try:
                    current.answers = await self._ask(current.keys)
                finally:
                    for key in current.keys:
                        del self._asked[key]
                    current.end()
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._running.discard(task)

    async def close(self) -> None:
        """Cancel round trips under way; requests that wait get no answers."""
        waiting = list(self._waiting)
        self._waiting.clear()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for each in waiting:
            each.end()
        # ``ask`` refers back to this object. The collector does not look at what is frozen, so the
        # cycle would keep both.
        self._ask = _no_answers


async def _no_answers(keys: Sequence[Key]) -> Mapping[Key, Answer]:
    return {}
