"""One file of item parts: each row computed once, nothing overwritten that anybody holds."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from app.catalogue import parts_file
from app.catalogue.parts_file import PREFIX, Busy, PartsFile, Slots, fingerprints, remove_unused
from app.errors import EngineFailed
from app.features.arrays import Floats, Indices
from app.scoring.job import NO_SLOT

WIDTHS = (3, 1)
NONE: Slots = np.zeros(0, np.int32)
Opened = Callable[..., PartsFile]


def compute(rows: Indices) -> list[Floats]:
    """Return numbers that tell rows apart."""
    total = (rows * np.arange(1, rows.shape[1] + 1)).sum(1).astype(np.float32)
    return [np.stack([total, total + 1, total + 2], 1), total.reshape(-1, 1)]


def rows_of(*numbers: int) -> Indices:
    return np.array([[number, number + 1] for number in numbers], np.int32).reshape(-1, 2)


def check(file: PartsFile, slots: Slots, rows: Indices) -> None:
    for array, expected in zip(file.arrays, compute(rows), strict=True):
        assert (array[slots] == expected).all()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / f"{PREFIX}token-bundle.parts"


@pytest.fixture
def opened(path: Path) -> Iterator[Opened]:
    files: list[PartsFile] = []

    def open_file(worker: int = 0, most: int = 2**20, at: Path = path) -> PartsFile:
        files.append(PartsFile(at, WIDTHS, worker, 2, most))
        return files[-1]

    yield open_file
    for file in files:
        try:
            file.close()
        except OSError:
            continue


def never(rows: Indices) -> list[Floats]:
    raise AssertionError("computed twice")


def test_every_worker_finds_what_one_has_computed(opened: Opened) -> None:
    """Equal rows have one slot, within a call, between calls and between workers."""
    one, two = opened(0), opened(1)
    rows = rows_of(5, 6, 5, 7)
    slots = one.hold(rows, compute, NONE)
    assert slots[0] == slots[2]
    assert len(set(slots.tolist())) == 3
    check(one, slots, rows)
    found = two.hold(rows_of(7, 6), never, NONE)
    assert found.tolist() == [slots[3], slots[1]]
    check(two, found, rows_of(7, 6))
    assert 0 < one.bytes <= 2**20


def test_many_rows_and_an_index_that_grows(opened: Opened) -> None:
    """Ten thousand rows, as many as the file has to grow for several times, are all found."""
    file = opened(most=2**22)
    rows = rows_of(*range(0, 30_000, 3))
    slots = np.concatenate(
        [file.hold(rows[start : start + 700], compute, NONE) for start in range(0, len(rows), 700)]
    )
    assert len(set(slots.tolist())) == len(rows)
    check(file, slots, rows)
    again = file.hold(rows, never, NONE)
    assert (again == slots).all()


def test_a_slot_is_used_again_when_nobody_holds_it(opened: Opened) -> None:
    """Within the limit rows come and go for ever; what is held keeps its numbers."""
    one, two = opened(0, 200_000), opened(1, 200_000)
    kept = rows_of(*range(50))
    held = one.hold(kept, compute, NONE)
    theirs = rows_of(*range(1_000, 1_050))
    their_slots = two.hold(theirs, compute, NONE)
    given_up = NONE
    for turn in range(60):
        rows = rows_of(*range(10_000 + 200 * turn, 10_200 + 200 * turn))
        slots = one.hold(rows, compute, given_up)
        assert (slots != NO_SLOT).all(), turn
        check(one, slots, rows)
        given_up = slots
    check(one, held, kept)
    check(two, their_slots, theirs)
    assert one.bytes <= 200_000
    assert (one.hold(kept, never, NONE) == held).all()


def test_without_room_there_is_no_slot(opened: Opened, path: Path) -> None:
    """As many rows as fit are held; others are when there is room again. Other bundles count."""
    file = opened(most=100_000)
    rows = rows_of(*range(5_000))
    slots = file.hold(rows, compute, NONE)
    fitting = int((slots != NO_SLOT).sum())
    assert 500 < fitting < 5_000
    check(file, slots[slots != NO_SLOT], rows[slots != NO_SLOT])
    assert file.bytes <= 100_000
    other = opened(most=100_000, at=path.with_name(f"{PREFIX}token-other.parts"))
    assert (other.hold(rows_of(1, 2), compute, NONE) == NO_SLOT).all()
    foreign = opened(most=100_000, at=path.with_name(f"{PREFIX}another-other.parts"))
    assert (foreign.hold(rows_of(1, 2), compute, NONE) != NO_SLOT).all()
    more = file.hold(rows_of(*range(9_000, 9_010)), compute, slots[slots != NO_SLOT][:100])
    assert (more != NO_SLOT).all()
    check(file, more, rows_of(*range(9_000, 9_010)))


def test_a_full_disk_gives_no_slot(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is allocated before it is written to, so a full disk is an answer and not a signal."""
    file = opened()
    held = file.hold(rows_of(1), compute, NONE)

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts_file.os, "posix_fallocate", full)
    slots = file.hold(rows_of(*range(5_000)), compute, NONE)
    assert slots[1] == held[0]
    assert (slots == NO_SLOT).sum() > 3_000
    check(file, slots[slots != NO_SLOT], rows_of(*np.flatnonzero(slots != NO_SLOT).tolist()))


def test_a_failed_run_holds_nothing(opened: Opened) -> None:
    """Rows of a failed run are computed by the next one."""
    file = opened()
    held = file.hold(rows_of(1), compute, NONE)

    def fails(rows: Indices) -> list[Floats]:
        raise EngineFailed("no")

    with pytest.raises(EngineFailed):
        file.hold(rows_of(1, 2), fails, NONE)
    slots = file.hold(rows_of(1, 2), compute, NONE)
    assert slots[0] == held[0]
    check(file, slots, rows_of(1, 2))


def test_one_at_a_time(opened: Opened) -> None:
    """While one worker computes, another is told to come again, and finds what was computed."""
    one, two = opened(0), opened(1)
    entered, leave = threading.Event(), threading.Event()

    def slow(rows: Indices) -> list[Floats]:
        entered.set()
        assert leave.wait(60)
        return compute(rows)

    thread = threading.Thread(target=lambda: one.hold(rows_of(1), slow, NONE))
    thread.start()
    assert entered.wait(60)
    with pytest.raises(Busy):
        two.hold(rows_of(1), compute, NONE)
    leave.set()
    thread.join(60)
    check(two, two.hold(rows_of(1), never, NONE), rows_of(1))


def _hold_and_stop(path: Path, ready: object) -> None:
    file = PartsFile(path, WIDTHS, 1, 2, 200_000)
    file.hold(rows_of(*range(100)), compute, NONE)

    def stops(rows: Indices) -> list[Floats]:
        ready.set()  # type: ignore[attr-defined]
        signal.pause()
        raise AssertionError

    file.hold(rows_of(*range(500, 600)), stops, NONE)


def test_a_worker_that_is_killed_leaves_neither_lock_nor_holds(opened: Opened, path: Path) -> None:
    """It is killed while it holds the lock; its successor begins without its holds."""
    one = opened(0, 200_000)
    context = get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold_and_stop, args=[path, ready])
    process.start()
    assert ready.wait(60)
    with pytest.raises(Busy):
        one.hold(rows_of(1), compute, NONE)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert (one.hold(rows_of(3), never, NONE) != NO_SLOT).all()
    successor = opened(1, 200_000)
    given_up = NONE
    for turn in range(40):
        rows = rows_of(*range(10_000 + 300 * turn, 10_300 + 300 * turn))
        slots = successor.hold(rows, compute, given_up)
        assert (slots != NO_SLOT).all(), turn
        check(successor, slots, rows)
        given_up = slots
    check(one, one.hold(rows_of(3), never, NONE), rows_of(3))


def test_the_last_to_close_removes_the_file(opened: Opened, path: Path) -> None:
    """Files of processes that were killed are removed by the next start, others are not."""
    one, two = opened(0), opened(1)
    left = path.with_name(f"{PREFIX}dead-bundle.parts")
    for each in (left, left.with_suffix(".lock")):
        each.touch()
    remove_unused(path.parent)
    assert sorted(path.parent.iterdir()) == [path.with_suffix(".lock"), path]
    one.close()
    assert path.exists()
    two.close()
    assert list(path.parent.iterdir()) == []


def test_fingerprints_tell_rows_apart() -> None:
    """They depend on every word of a row, and on nothing else."""
    rows = rows_of(1, 2, 1)
    found = fingerprints(rows)
    assert found[0] == found[2] != found[1]
    assert (fingerprints(np.asfortranarray(rows)) == found).all()
    assert len(fingerprints(rows[:0])) == 0
