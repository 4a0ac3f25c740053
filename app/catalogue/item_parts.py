"""The item parts of a catalogue: each item's slot, filled off the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Protocol

import numpy as np

from app.catalogue.leases import Lease, Leases
from app.catalogue.parts_file import Busy, PartsFile, Slots
from app.catalogue.rows import GrowingRows
from app.errors import CtrError, ValueProblem
from app.features.arrays import Floats, Indices
from app.off_loop import run_off_loop
from app.scoring.job import NO_SLOT

BUILD_ROWS = 512
"""Items whose parts are computed at a time: some 5 ms on another thread."""
BUSY_SECONDS = 0.005
"""Pause before another try where another worker is building."""
STALLED_SECONDS = 30.0
"""Time without any progress after which nobody waits for item parts."""
RETRY_SECONDS = 5.0
"""Pause after a failure, or where there was no room."""
MOST_ABSENT = 2_000
"""Items without a part whose vectors are computed for a first cut: some 10 ms."""
BLOCK_NUMBERS = 4_096
"""Numbers of a block of vectors; from 9,216 on OpenBLAS uses several threads."""
SPARSE = 4
"""Slots for one that is read, up to which all are multiplied: faster than to gather some."""
log = logging.getLogger(__name__)


class Split(Protocol):
    """The view of split graphs that item parts have."""

    @property
    def has_first_cut(self) -> bool:
        """True if the last array of an item part holds vectors of the first cut."""
        ...

    def item_parts(self, rows: Indices) -> list[Floats]:
        """Return the item part of encoded rows [N, width]: arrays [N, numbers]."""
        ...

    def vector(self, context: Indices) -> Floats:
        """Return the vector of a context's row [1, width] in the first cut."""
        ...


class ItemParts:
    """The slot of every place of a catalogue that has one; the others are scored from indices.

    It belongs to the event loop; only the file is used on another thread, by one call at a time.
    """

    def __init__(self, file: PartsFile, split: Split) -> None:
        """``split`` computes what is held; the file is closed with this."""
        self._file = file
        self._split = split
        # By place, the slot plus one: new places have none.
        self._slots: GrowingRows[np.int32] = GrowingRows(1, np.int32)
        self._rows: GrowingRows[np.int32] = GrowingRows(0, np.int32)
        self._pending: dict[int, None] = {}
        self._leases: Leases[int] = Leases()
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._call: asyncio.Future[Slots] | None = None
        self._task: asyncio.Task[None] | None = None
        self.count = 0
        """Items that are scored from their parts."""
        self.problem: str | None = None
        """The reason for which other items are not."""

    @property
    def arrays(self) -> list[Floats]:
        """The numbers of all slots: an array [slots, width] for each of the item part."""
        return self._file.arrays

    @property
    def bytes(self) -> int:
        """Bytes of the file."""
        return self._file.bytes

    def of(self, places: Indices) -> Slots:
        """Return the slots of places, ``NO_SLOT`` where there is none."""
        slots: Slots = self._slots.array[places, 0] - 1
        return slots

    def lease(self) -> Lease:
        """Return what keeps the slots of today as they are for as long as it is held."""
        return self._leases.lease()

    def start(self, rows: GrowingRows[np.int32]) -> None:
        """Begin to fill slots; ``rows`` are the encoded rows of places."""
        self._rows = rows
        self._task = asyncio.create_task(self._keep_up())

    def change(self, place: int) -> None:
        """Note that a place has another row now."""
        self.drop(place)
        self._pending[place] = None
        self._idle.clear()
        self._wake.set()

    def drop(self, place: int) -> None:
        """Note that no item is at a place any longer."""
        self._pending.pop(place, None)
        if place < len(self._slots.array) and (slot := int(self._slots.array[place, 0])):
            self._slots.array[place] = 0
            self._leases.give_up(slot - 1)
            self.count -= 1

    def first_cut(self, places: Indices, context: Indices, most: int) -> Callable[[], Indices]:
        """Return work for another thread: see ``app.scoring.items.Items``.

        Raises:
            ValueProblem: the network has no first cut, or too many items have no part.
        """
        split, vectors = self._split, self.arrays[-1]
        if not split.has_first_cut:
            raise ValueProblem("this network has no first cut; FM, FFM and DeepFM have one")
        slots = self.of(places)
        absent = np.flatnonzero(slots == NO_SLOT)
        if len(absent) > MOST_ABSENT:
            raise ValueProblem(f"there is no first cut: {len(absent)} items have no item part")
        rows = self._rows.array[places[absent]]

        def cut() -> Indices:
            vector = split.vector(context)
            end = int(slots.max(initial=NO_SLOT)) + 1
            if end <= SPARSE * len(slots):
                products = _products(vectors[:end], vector) if end else np.zeros(1, np.float32)
                score = products.take(slots)
            else:
                score = _products(vectors[slots], vector)
            if len(absent):
                score[absent] = _products(split.item_parts(rows)[-1], vector)
            if most >= len(places):
                return places
            best = np.argpartition(score, len(score) - most)[len(score) - most :]
            best.sort()
            return places[best]

        return cut

    async def built(self) -> None:
        """Wait until every item has a slot, or until the reason why not is known.

        If none is computed for ``STALLED_SECONDS`` they come later, and items are scored from their
        indices until then.
        """
        while waiting := len(self._pending):
            with suppress(TimeoutError):
                async with asyncio.timeout(STALLED_SECONDS):
                    await self._idle.wait()
                return
            if len(self._pending) == waiting:
                log.warning("item parts: none of %d came in %g s", waiting, STALLED_SECONDS)
                return

    async def _keep_up(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                self.problem = await self._build()
            except CtrError as error:
                self.problem = str(error)
            except Exception:
                self.problem = "internal error"
                log.exception("item parts are not built")
            self._idle.set()
            if self.problem is not None:
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()

    async def _build(self) -> str | None:
        """Fill a slot for each item that has none; return why not, if there is no room."""
        while self._pending:
            places = np.fromiter(islice(self._pending, BUILD_ROWS), np.int32)
            rows = self._rows.array[places]
            slots = await self._hold(rows)
            unchanged = (self._rows.array[places] == rows).all(axis=1).tolist()
            for place, slot, same in zip(places.tolist(), slots.tolist(), unchanged, strict=True):
                if slot == NO_SLOT:
                    continue
                if same and place in self._pending:
                    del self._pending[place]
                    self._slots.put(place, slot + 1)
                    self.count += 1
                else:
                    self._leases.give_up(slot)
            if (slots == NO_SLOT).any():
                return "there is no room for the item parts of all items: see CTR_ITEM_PARTS_BYTES"
        return None

    async def _hold(self, rows: Indices) -> Slots:
        """Hold the slots of some rows, giving up those that are free by now."""
        free = np.array(self._leases.freed(), np.int32)
        while True:
            # If this is cancelled the thread goes on, and ``close`` waits for it.
            self._call = asyncio.ensure_future(
                run_off_loop(lambda: self._file.hold(rows, self._split.item_parts, free))
            )
            try:
                return await asyncio.shield(self._call)
            except Busy:
                await asyncio.sleep(BUSY_SECONDS)

    async def close(self) -> None:
        """Give up all slots and close the file."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._call is not None:
            await asyncio.gather(self._call, return_exceptions=True)
        # Their errors refer to this by their frames: see Follower.close.
        self._task = self._call = None
        await run_off_loop(self._file.close)


def _products(vectors: Floats, vector: Floats) -> Floats:
    """Return the inner product [N] of each of the vectors [N, width] with another one.

    In blocks that BLAS multiplies on this thread alone. For large ones it wakes a thread for each
    processor and waits for all: 19 ms in place of 0.2 where other work has the processors.
    """
    count, width = vectors.shape
    rows = max(1, BLOCK_NUMBERS // width)
    whole = count // rows * rows
    products = np.empty(count, np.float32)
    blocks = vectors[:whole].reshape(-1, rows, width)
    np.matmul(blocks, vector, out=products[:whole].reshape(-1, rows))
    np.matmul(vectors[whole:], vector, out=products[whole:])
    return products
