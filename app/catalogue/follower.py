"""Follows the changes of a store, and keeps a bundle's catalogue as they say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from time import monotonic
from typing import Any, TypeVar

import numpy as np

from app.backoff import Backoff
from app.catalogue.catalogue import Catalogue
from app.catalogue.item_parts import ItemParts
from app.errors import CtrError, FellBehind, StoreError, ValueProblem, VocabularyUnavailable
from app.features.arrays import Indices
from app.features.column_encoding import Misses
from app.features.encoder import SideEncoder, settle
from app.features.spec import FeatureSpec
from app.logs import LogLimit
from app.off_loop import run_off_loop, start_off_loop
from app.scoring.scorer import VocabularySource
from app.store.opening import open_store
from app.store.store import Change, Damaged, Position, Store

POLL_SECONDS = 0.2
"""Time between two looks for changes."""
READ_ROWS = 2_000
"""Items or changes that are read from the store at a time."""
SLICE_ROWS = 32
"""Items that are encoded before other work of the event loop gets its turn: some 0.5 ms."""
CHANGE_ROWS = 8
"""Changes that are: requests meet them all day, and a row costs the same in a smaller slice."""
FETCH_SECONDS = 10.0
"""Seconds that a vocabulary in Redis may take for the values of a slice."""
HANGING_SECONDS = 10.0
"""Time after which a store that does not answer counts as one that is down."""
LOGGED_REFUSALS = 5
"""Refused items that the log names after the first read, and then within ten seconds."""
_LEFT_OUT = "item %r is left out: %s"
LOADING = "the store is a new one, whose first put has not ended"
"""The problem of a catalogue that lacks items, because they are just being put."""
LARGE_LOSS = 0.5
"""Share of a catalogue that is told of when a store has less than it."""
Result = TypeVar("Result")
log = logging.getLogger(__name__)


class Follower:
    """Fills a catalogue from a store, then follows its changes until it is closed.

    What has been read stays in use while the store is down, emptied or behind; ``problem`` says so.
    """

    def __init__(
        self,
        url: str,
        spec: FeatureSpec,
        candidate: SideEncoder,
        vocabulary: VocabularySource | None,
        open_parts: Callable[[], ItemParts | str] = lambda: "no split graphs",
    ) -> None:
        """``candidate`` encodes items; ``vocabulary`` has the values that its tables lack.

        ``open_parts`` opens the item parts, or says why none are held; it may block.
        """
        self.catalogue = Catalogue(candidate.shape.width, spec.side("candidate"))
        self._open_parts = open_parts
        self._no_parts: str | None = None
        self.problem: str | None = None
        self._url = url
        self._candidate = candidate
        self._vocabulary = vocabulary
        self._store: Store | None = None
        self._position = Position("", 0)
        self._loading = False
        self._backoff = Backoff(POLL_SECONDS, 5.0)
        self._limit = LogLimit(10.0)
        self._refusals = LogLimit(10.0, lines=LOGGED_REFUSALS)
        self._task: asyncio.Task[None] | None = None
        self._caught_up = monotonic()

    async def fill(self, may_be_gone: bool = False) -> None:
        """Read and encode all items.

        A worker that takes a dead one's place starts without items where the store is gone: it
        ``may_be_gone``, and ``problem`` says so.

        Raises:
            StoreError: the store cannot be used.
            VocabularyUnavailable: Redis does not answer, and nothing may replace it.
        """
        url = self._url
        parts = await run_off_loop(self._open_parts)
        if isinstance(parts, str):
            self._no_parts = parts
        else:
            self.catalogue.build(parts)
        try:
            self._store = await run_off_loop(lambda: open_store(url))
            await self._read_all()
            await self._look_whether_loading()
            if self.catalogue.parts is not None:
                await self.catalogue.parts.built()
        except StoreError as error:
            if not may_be_gone:
                raise
            self._fail(error.shown, str(error))
            self._forget_store()
        self._caught_up = monotonic()
        refused = self.catalogue.refused
        for identity, reason in islice(refused.items(), LOGGED_REFUSALS):
            log.warning(_LEFT_OUT, identity[:64], reason)
        log.info("catalogue: %d items, %d left out", len(self.catalogue), len(refused))

    def start(self) -> None:
        """Follow the changes that come after the fill."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop following, and close the store."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            # Its error refers to its frame, and that to this: a cycle, which is never freed, as
            # the collector leaves alone what was in use.
            self._task = None
        self._forget_store()
        if self.catalogue.parts is not None:
            await self.catalogue.parts.close()

    @property
    def change_number(self) -> int:
        """The number of the store's last change that is used."""
        return self._position.number

    @property
    def behind_seconds(self) -> float:
        """Seconds since the catalogue had all changes of the store."""
        return monotonic() - self._caught_up

    @property
    def parts_held(self) -> int:
        """Items that are scored through item parts."""
        parts = self.catalogue.parts
        return 0 if parts is None else parts.count

    @property
    def parts_problem(self) -> str | None:
        """The reason for which items are scored from their indices, where they are."""
        parts = self.catalogue.parts
        return self._no_parts if parts is None else parts.problem

    def _forget_store(self) -> None:
        """Close the store in a thread: it may hang."""
        store, self._store = self._store, None
        if store is not None:
            start_off_loop(store.close)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._backoff.pause or POLL_SECONDS)
            try:
                await self._catch_up()
            except StoreError as error:
                self._fail(error.shown, str(error))
                self._forget_store()
            except CtrError as error:
                self._fail(str(error))
            except Exception:
                self._fail("internal error")
                log.exception("following the store failed")
            else:
                if self._loading:
                    self.problem = LOADING
                elif self.problem is not None:
                    log.info("the store answers again")
                    self.problem = None
                self._backoff.reset()
                self._caught_up = monotonic()

    def _fail(self, problem: str, told: str | None = None) -> None:
        """Note a problem; the log is ``told`` more than callers may see."""
        self._backoff.fail()
        self.problem = problem
        self._limit.log(log, logging.WARNING, "the catalogue is not followed: %s", told or problem)

    async def _catch_up(self) -> None:
        """Apply all changes that there are by now."""
        if self._store is None:
            url = self._url
            self._store = await self._answer(lambda: open_store(url))
        while True:
            store, position = self._store, self._position
            try:
                reached, changes = await self._answer(partial(store.changes, position, READ_ROWS))
            except FellBehind:
                if await self._answer(store.filling) not in (None, position.epoch):
                    raise StoreError(LOADING) from None
                await self._read_all()
                break
            for start in range(0, len(changes), CHANGE_ROWS):
                await self._apply(changes[start : start + CHANGE_ROWS])
            self._position = reached
            if reached.number - position.number < READ_ROWS:
                break
        if self._loading:
            await self._look_whether_loading()

    async def _look_whether_loading(self) -> None:
        """Note whether items are still to come; a service that starts meanwhile says so."""
        store = self._store
        assert store is not None
        loading = await self._answer(store.loading)
        if loading and not self._loading:
            self._fail(LOADING)
        self._loading = loading

    async def _answer(self, work: Callable[[], Result]) -> Result:
        """Ask the store in a thread; a store that hangs is told of, and waited for."""
        asking = start_off_loop(work)
        try:
            async with asyncio.timeout(HANGING_SECONDS):
                return await asyncio.shield(asking)
        except TimeoutError:
            self._fail("the store does not answer")
            return await asking

    async def _read_all(self) -> None:
        """Read every item; forget those that are not there."""
        store = self._store
        assert store is not None
        position, items = await self._answer(store.items)
        present: set[str] = set()
        while batch := await self._answer(lambda: list(islice(items, READ_ROWS))):
            for start in range(0, len(batch), SLICE_ROWS):
                await self._apply([Change(0, *item) for item in batch[start : start + SLICE_ROWS]])
            present.update(str(item.id) for item in batch)
        before = len(self.catalogue)
        self.catalogue.keep_only(present)
        if len(self.catalogue) < before * LARGE_LOSS:
            text = "the store has %d items of what were %d: is it whole?"
            log.warning(text, len(self.catalogue), before)
        self._position = position

    async def _settled(self, packed: bytes, misses: Misses | None) -> Indices:
        """Return rows [N, width] in which the values that were not in memory have their rows."""
        shape = self._candidate.shape
        if misses:
            assert self._vocabulary is not None
            deadline = asyncio.get_running_loop().time() + FETCH_SECONDS
            fetched, degraded = await self._vocabulary.fetch(misses, deadline)
            if degraded:
                # The row of an item stays, so a value that counts as OOV for a moment must not.
                raise VocabularyUnavailable("Redis does not answer for the values of items")
            packed = settle(packed, fetched, shape)
        return np.frombuffer(packed, np.int32).reshape(-1, shape.width)

    async def _apply(self, changes: Sequence[Change]) -> None:
        """Encode some changes and put all of them into the catalogue at once."""
        misses: Misses | None = None if self._vocabulary is None else {}
        packed: list[bytes] = []
        refused: dict[int, str] = {}
        for place, change in enumerate(changes):
            if change.values is None:
                continue
            if isinstance(change.values, Damaged):
                refused[place] = change.values.reason
                continue
            values = self._candidate.stored(change.values)
            try:
                packed.append(self._candidate.row(values, misses))
            except ValueProblem:
                name, problem = next(iter(self._candidate.problems(values)))
                refused[place] = f"{name}: {problem.problem}"
        joined = await self._settled(b"".join(packed), misses)
        rows: Iterator[Indices] = iter(joined)
        places: list[int] = []
        values_of_places: list[Mapping[str, Any]] = []
        for place, change in enumerate(changes):
            if change.values is None:
                self.catalogue.drop(change.id)
            elif place in refused:
                self.catalogue.refuse(change.id, refused[place])
                if self._task is not None:
                    self._refusals.log(
                        log, logging.WARNING, _LEFT_OUT, str(change.id)[:64], refused[place]
                    )
            else:
                places.append(self.catalogue.put_row(change.id, next(rows)))
                values_of_places.append(change.values)
        self.catalogue.put_values(places, values_of_places)
        await asyncio.sleep(0)
