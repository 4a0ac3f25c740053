"""Numbers of forked workers add up, and outlive the worker that counted them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from app.workers.shared_numbers import MOST_NUMBERS, SharedNumbers
from tests.support.serving import ROOT


def in_worker(shared: SharedNumbers, number: int, work: Callable[[], None]) -> None:
    """Run ``work`` in a forked process that is worker ``number``."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            shared.begin_worker(number)
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_numbers_of_all_workers_add_up() -> None:
    """Each worker writes its own row; a successor continues from what a dead worker left."""
    shared = SharedNumbers(3)

    def work() -> None:
        own = shared.region("some", 2).own
        own[0] += 1
        own[1] += 10

    for number in (1, 2, 2):
        in_worker(shared, number, work)
    region = shared.region("some", 2)
    assert region.own.tolist() == [0, 0]
    region.own[0] = 7
    assert region.total() == [10, 30]
    assert region.least() == [1, 0]
    assert region.each() == [7, 1, 2]
    assert region.total_of(2) == [2, 20]
    assert not region.equal()


def test_all_have_been_ready_once() -> None:
    """The service has started when every worker is ready; one that dies does not undo it."""
    shared = SharedNumbers(2)
    in_worker(shared, 1, lambda: shared.set_ready())
    in_worker(shared, 1, lambda: None)
    shared.set_ready()
    before = shared.started
    in_worker(shared, 1, lambda: shared.set_ready())
    shared.begin_worker(0)
    assert (before, shared.started) == (False, True)


def test_others_that_are_ready_are_known() -> None:
    """A worker that is not ready knows whether another one is."""
    shared = SharedNumbers(2)
    shared.begin_worker(0)
    alone = shared.others_ready
    in_worker(shared, 1, lambda: shared.set_ready())
    assert (alone, shared.others_ready) == (False, True)


def test_room_is_limited() -> None:
    """A region that does not fit is refused, instead of written over another one."""
    shared = SharedNumbers(2)
    with pytest.raises(MemoryError, match="does not fit"):
        shared.region("many", MOST_NUMBERS)


def test_a_name_has_the_same_numbers_everywhere() -> None:
    """The order in which workers ask for regions does not matter."""
    shared = SharedNumbers(2)
    mine = shared.region("mine", 2)

    def work() -> None:
        for number in range(100):
            shared.region(f"other {number}", 3)
        shared.region("mine", 2).own[1] = 5

    in_worker(shared, 1, work)
    mine.own[1] = 1
    assert mine.total() == [0, 6]
    assert shared.region("other 7", 3).total() == [0, 0, 0]


WITHOUT_WRITING = """
import os, sys
from app.workers.shared_numbers import SharedNumbers

def refuse(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        raise OSError(f"read-only: {arguments[0]}")

sys.addaudithook(refuse)
shared = SharedNumbers(2)
shared.region("some", 3).own[1] = 1
print(shared.region("some", 3).total())
"""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")
def test_nothing_is_written() -> None:
    """A container's file system may be read-only, with no place for temporary files."""
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_WRITING], cwd=ROOT, capture_output=True, text=True
    )
    assert (ended.stdout, ended.stderr) == ("[0.0, 1.0, 0.0]\n", "")
