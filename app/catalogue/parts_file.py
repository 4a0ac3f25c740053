"""Item parts in one file that all workers of a service map, so that each is computed once.

An item part follows from an encoded row, and is found by a fingerprint of that row: workers need
not agree on anything else. A slot is written once, before its fingerprint is entered, and does not
change while any worker holds it. Each worker counts its own holds; a slot that none holds may be
used again. To look for slots, add or give them up takes a lock, which ends with its process.
Scoring takes no lock: it reads only slots that its own worker holds.

Room is allocated before it is written to: a write to a mapped page for which the disk has no room
would end the process.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from time import monotonic_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.features.arrays import Floats, Indices
from app.scoring.job import NO_SLOT

PREFIX = "ctr-parts-"
_PRINT = np.dtype([("low", np.uint64), ("high", np.uint64)])
_ALLOCATED, _USED, _FREE, _INDEX = range(4)
"""Numbers in the header: slots that there is room for, those that were used, those of them that are
free again, and places of the index. Then a mark of each worker's process."""
_HEADER = 4
_LEAST_ROOM = 1_024
"""Slots by which a file grows at least."""
_FREE_SHARE = 4
"""A file of whose slots one in so many is free is tidied instead of made longer."""
Slots = NDArray[np.int32]
Compute = Callable[[Indices], Sequence[Floats]]
"""Gives the item part of rows: an array [N, width] for each width of the file."""


class Busy(Exception):
    """Another process, or another bundle of this one, holds the lock."""


class PartsFile:
    """A file of item parts, opened by one worker; ``arrays`` [slots, width] are its numbers."""

    def __init__(
        self, path: Path, widths: Sequence[int], worker: int, workers: int, max_bytes: int
    ) -> None:
        """Open the file, or make it. Together with others beside it, it has ``max_bytes`` at most.

        Raises:
            OSError: it cannot be opened.
        """
        self._path, self._max_bytes = path, max_bytes
        holds = [(f"holds {number}", np.dtype(np.int32), 1) for number in range(workers)]
        arrays = [(f"array {n}", np.dtype(np.float32), width) for n, width in enumerate(widths)]
        self._columns = [("prints", _PRINT, 1), ("free", np.dtype(np.int32), 1), *holds, *arrays]
        self.slot_bytes = sum(kind.itemsize * width for _, kind, width in self._columns)
        self._most = max(1, self._slots_in(max_bytes))
        self._file, self._lock_file = _open(path)
        self._map(_HEADER + workers)
        self._holds = [self._views[name] for name, _, _ in holds]
        self._mine = self._holds[worker]
        # What this file's user holds; another bundle of this worker may have the same file.
        self._own: Slots = np.zeros(self._most, np.int32)
        self.arrays: list[Floats] = [self._views[name] for name, _, _ in arrays]
        with self._locked():
            mark = _process_mark(os.getpid())
            if self._header[_HEADER + worker] != mark:
                # A dead worker's holds end with its successor.
                self._mine[: self._header[_ALLOCATED]] = 0
                self._header[_HEADER + worker] = mark

    def _map(self, numbers: int) -> None:
        """Map the whole of what the file may become; what is not allocated takes no room."""
        self._offsets: dict[str, int] = {}
        end = _paged(8 * numbers)
        for name, kind, width in self._columns:
            self._offsets[name] = end
            end += _paged(kind.itemsize * width * self._most)
        self._offsets["index"] = end
        places = _index_places(self._most)
        end += 4 * places
        if os.fstat(self._file).st_size < end:
            os.ftruncate(self._file, end)
        os.posix_fallocate(self._file, 0, 8 * numbers)
        memory = mmap.mmap(self._file, end)
        self._header = np.frombuffer(memory, np.int64, numbers)
        self._index = np.frombuffer(memory, np.int32, places, self._offsets["index"])
        self._views: dict[str, Any] = {}
        for name, kind, width in self._columns:
            view = np.frombuffer(memory, kind, width * self._most, self._offsets[name])
            self._views[name] = (
                view.reshape(self._most, width) if name.startswith("array") else view
            )
        self._prints, self._free = self._views["prints"], self._views["free"]

    def _slots_in(self, size: int) -> int:
        """Return how many slots fit, with their places in the index and each column's last page."""
        return (size - mmap.PAGESIZE * (len(self._columns) + 2)) // (self.slot_bytes + 16)

    @contextmanager
    def _locked(self, wait: bool = True) -> Iterator[None]:
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Busy from None
        try:
            yield
        finally:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def hold(self, rows: Indices, compute: Compute, given_up: Slots) -> Slots:
        """Return the slot of each row [N], after giving up others; ``NO_SLOT`` without room.

        What no worker has computed yet is computed.

        Raises:
            Busy: another one holds the lock: nothing has been done.
            EngineFailed: as ``compute``; then nothing is held.
        """
        with self._locked(wait=False):
            self._count(given_up, -1)
            prints = fingerprints(rows)
            slots = self._find(prints)
            absent = np.flatnonzero(slots == NO_SLOT)
            # Held before others are taken, so that those are not among them.
            there = slots[slots != NO_SLOT]
            self._count(there, 1)
            if absent.size:
                try:
                    slots[absent] = self._add(rows[absent], prints[absent], compute)
                except BaseException:
                    self._count(there, -1)
                    raise
            return slots

    def _count(self, slots: Slots, holds: int) -> None:
        for counts in (self._mine, self._own):
            np.add.at(counts, slots, holds)

    def _add(self, rows: Indices, prints: NDArray[Any], compute: Compute) -> Slots:
        """Compute and hold rows that are not there, each once."""
        _, first, which = np.unique(prints, return_index=True, return_inverse=True)
        taken = self._take(len(first))
        fitting = first[: len(taken)]
        if taken.size:
            # Until a slot is whole it has no fingerprint, lest a process that ends here leaves one.
            self._prints[taken] = np.zeros(1, _PRINT)
            for array, part in zip(self.arrays, compute(rows[fitting]), strict=True):
                array[taken] = part
            self._prints[taken] = prints[fitting]
            self._enter(taken)
        found = np.full(len(first), NO_SLOT, np.int32)
        found[: len(taken)] = taken
        slots: Slots = found[which]
        self._count(slots[slots != NO_SLOT], 1)
        return slots

    def _take(self, count: int) -> Slots:
        """Return slots for so many rows, or for as many as there is room for."""
        header = self._header
        if header[_FREE] + header[_ALLOCATED] - header[_USED] < count:
            self._make_room(count)
        again = min(count, int(header[_FREE]))
        header[_FREE] -= again
        reused = self._free[header[_FREE] : header[_FREE] + again]
        fresh = min(count - again, int(header[_ALLOCATED] - header[_USED]))
        new = np.arange(header[_USED], header[_USED] + fresh, dtype=np.int32)
        header[_USED] += fresh
        return np.concatenate([reused, new])

    def _make_room(self, count: int) -> None:
        """Make the file longer, or find slots that nobody holds."""
        used = int(self._header[_USED])
        held = np.logical_or.reduce([holds[:used] for holds in self._holds])
        free = np.flatnonzero(~held)
        if _FREE_SHARE * len(free) < used + _FREE_SHARE and self._grow(count):
            return
        if not used:
            return
        self._free[: len(free)] = free
        self._header[_FREE] = len(free)
        self._fill_index(np.flatnonzero(held).astype(np.int32))

    def _grow(self, count: int) -> bool:
        """Allocate room for more slots; return whether there are more now."""
        before, used = int(self._header[_ALLOCATED]), int(self._header[_USED])
        others = sum(
            each.stat().st_blocks * 512
            for each in self._path.parent.glob(f"{self._path.name.rpartition('-')[0]}-*")
            if each != self._path and each.exists()
        )
        room = self._slots_in(self._max_bytes - others)
        wanted = used + max(count, _LEAST_ROOM, used // _FREE_SHARE)
        after = min(wanted, room, self._most)
        if after <= before:
            return False
        places = _index_places(after)
        with suppress(OSError):
            for name, kind, width in self._columns:
                size = kind.itemsize * width
                start = self._offsets[name] + before * size
                os.posix_fallocate(self._file, start, (after - before) * size)
            os.posix_fallocate(self._file, self._offsets["index"], 4 * places)
            self._header[_ALLOCATED] = after
            if places > self._header[_INDEX]:
                self._header[_INDEX] = places
                entered = np.ones(used, np.bool_)
                entered[self._free[: self._header[_FREE]]] = False
                self._fill_index(np.flatnonzero(entered).astype(np.int32))
            return True
        # The disk is full.
        return False

    def _find(self, prints: NDArray[Any]) -> Slots:
        """Return the slots of fingerprints."""
        found = np.full(len(prints), NO_SLOT, np.int32)
        places = int(self._header[_INDEX])
        if not places:
            return found
        spots = (prints["low"] & np.uint64(places - 1)).astype(np.int64)
        asked = np.arange(len(prints))
        while asked.size:
            slots = self._index[spots[asked]] - 1
            entered = slots != NO_SLOT
            same = entered & (self._prints[slots] == prints[asked])
            found[asked[same]] = slots[same]
            asked = asked[entered & ~same]
            spots[asked] = (spots[asked] + 1) & (places - 1)
        return found

    def _enter(self, slots: Slots) -> None:
        """Enter slots that are not in the index by their fingerprints."""
        places = int(self._header[_INDEX])
        spots = (self._prints[slots]["low"] & np.uint64(places - 1)).astype(np.int64)
        asked = np.arange(len(slots))
        while asked.size:
            free = asked[self._index[spots[asked]] == 0]
            taken, first = np.unique(spots[free], return_index=True)
            entered = free[first]
            self._index[taken] = slots[entered] + 1
            asked = np.setdiff1d(asked, entered, assume_unique=True)
            spots[asked] = (spots[asked] + 1) & (places - 1)

    def _fill_index(self, slots: Slots) -> None:
        """Enter these slots in the place of all others."""
        self._index[: self._header[_INDEX]] = 0
        self._enter(slots[self._prints[slots] != np.zeros(1, _PRINT)])

    @property
    def bytes(self) -> int:
        """Bytes that the file takes."""
        return os.fstat(self._file).st_blocks * 512

    def close(self) -> None:
        """Give up all slots; the last to close the file removes it."""
        with self._locked():
            used = int(self._header[_USED])
            self._mine[:used] -= self._own[:used]
        with suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(self._path)
        os.close(self._file)
        os.close(self._lock_file)


def fingerprints(rows: Indices) -> NDArray[Any]:
    """Return a fingerprint of 128 bits of each row."""
    packed = np.ascontiguousarray(rows)
    size = packed.shape[1] * packed.itemsize
    content = packed.tobytes()
    digests = b"".join(
        blake2b(content[start : start + size], digest_size=_PRINT.itemsize).digest()
        for start in range(0, len(rows) * size, size or 1)
    )
    return np.frombuffer(digests, _PRINT)


def remove_unused(directory: Path) -> None:
    """Remove files of item parts that no process has open: theirs have ended."""
    for path in directory.glob(f"{PREFIX}*.parts"):
        with suppress(OSError):
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(file)


def _open(path: Path) -> tuple[int, int]:
    """Open a file and its lock; as long as it is open, nobody removes it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        file = os.open(path, flags, 0o600)
        fcntl.flock(file, fcntl.LOCK_SH)
        if os.fstat(file).st_nlink:
            return file, os.open(path.with_suffix(".lock"), flags, 0o600)
        os.close(file)


def _remove(path: Path) -> None:
    for each in (path.with_suffix(".lock"), path):
        each.unlink(missing_ok=True)


@cache
def _process_mark(pid: int) -> int:
    """Return a number that no process before this one had."""
    return monotonic_ns() << 16 | pid & 0xFFFF


def _paged(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _index_places(slots: int) -> int:
    """Return the size of an index that is at most half full."""
    return 1 << max(0, 2 * slots - 1).bit_length()
