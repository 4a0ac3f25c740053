"""Numbers that forked workers share add up, and outlive the worker that counted them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from app.metrics.counters import Buckets, Counts, Number
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


def test_counts_of_all_workers_add_up() -> None:
    """Each worker writes its own; a successor counts on from what a dead one left."""
    shared = SharedNumbers(3)

    def work() -> None:
        counts, buckets = (
            Counts(shared, "counts", ["a", "b"]),
            Buckets(shared, "seconds", (1.0, 2.0)),
        )
        counts["a"] += 1
        counts["b"] += 10
        buckets.observe(1.5)

    for number in (1, 2, 2):
        in_worker(shared, number, work)
    counts, buckets = Counts(shared, "counts", ["a", "b"]), Buckets(shared, "seconds", (1.0, 2.0))
    assert counts["a"] == 0
    counts["a"] += 1
    assert counts.totals() == {"a": 4.0, "b": 30.0}
    assert buckets.shown() == ([("1.0", 0.0), ("2.0", 3.0), ("+Inf", 3.0)], 4.5)


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


def test_a_number_is_an_attribute() -> None:
    """Reading and writing it is reading and writing this worker's number."""

    class Counted:
        seen = Number()

        def __init__(self) -> None:
            self.numbers = Counts(SharedNumbers(), "numbers", ["seen"])

    counted = Counted()
    counted.seen += 2
    assert counted.seen == 2
    assert counted.numbers.totals() == {"seen": 2.0}


def test_there_are_only_so_many() -> None:
    """More than fit are refused, not written over a neighbour's."""
    shared = SharedNumbers(2)
    with pytest.raises(MemoryError, match="can be shared"):
        shared.region("many", MOST_NUMBERS)


def test_a_name_has_the_same_numbers_everywhere() -> None:
    """Whatever else a worker has taken before, and in whatever order."""
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
