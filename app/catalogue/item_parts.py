"""The item parts of a catalogue: each item's slot, filled off the event loop."""

from __future__ import annotations

import asyncio
import logging
from itertools import islice

import numpy as np

from app.catalogue.leases import Lease, Leases
from app.catalogue.parts_file import Busy, Compute, PartsFile, Slots
from app.catalogue.rows import GrowingRows
from app.errors import CtrError
from app.features.arrays import Floats, Indices
from app.off_loop import run_off_loop
from app.scoring.job import NO_SLOT

BUILD_ROWS = 512
"""Items whose parts are computed at a time: some 5 ms on another thread."""
BUSY_SECONDS = 0.005
"""Pause before another try where another worker is building."""
RETRY_SECONDS = 5.0
"""Pause after a failure, or where there was no room."""
log = logging.getLogger(__name__)


class ItemParts:
    """The slot of every place of a catalogue that has one; the others are scored from indices.

    It belongs to the event loop; only the file is used on another thread, by one call at a time.
    """

    def __init__(self, file: PartsFile, compute: Compute) -> None:
        """``compute`` gives the item part of rows; the file is closed with this."""
        self._file = file
        self._compute = compute
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
        """Why other items are not."""

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

    async def built(self) -> None:
        """Wait until every item has a slot, or until the reason why not is known."""
        if self._pending:
            await self._idle.wait()

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
                run_off_loop(lambda: self._file.hold(rows, self._compute, free))
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
        await run_off_loop(self._file.close)
