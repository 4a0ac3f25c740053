"""A run that does not end is noticed, once, and no other run is."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count

import pytest

from app.scoring.run_watch import CHECKS, RunWatch
from tests.support.serving import wait_until

SECONDS = 0.2


class Watched:
    """A watch, and what it called."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.hung: list[tuple[int, bool]] = []
        self.watch = RunWatch(seconds, lambda run, on_loop: self.hung.append((run, on_loop)))
        self.watch.start()


@pytest.fixture
def watched() -> Iterator[Watched]:
    found = Watched()
    yield found
    found.watch.stop()


@pytest.mark.parametrize("on_loop", [False, True])
def test_a_run_that_does_not_end_is_noticed_once(watched: Watched, on_loop: bool) -> None:
    """It is told by its number and where it runs, after its time and not before."""
    watched.watch.begin(on_loop=not on_loop)
    watched.watch.end()
    begun = time.monotonic()
    watched.watch.begin(on_loop)
    wait_until(lambda: bool(watched.hung), "it is noticed")
    assert time.monotonic() - begun >= SECONDS * 0.9
    time.sleep(2 * SECONDS)  # Nothing may happen in this time.
    assert watched.hung == [(2, on_loop)]


def test_many_runs_are_not_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run after run without a pause, each within its time, is a busy engine."""
    hung: list[tuple[int, bool]] = []
    watch, looks = RunWatch(SECONDS, lambda *run: hung.append(run)), iter(range(4 * CHECKS))
    clock = count(0.0, SECONDS / CHECKS)
    monkeypatch.setattr("app.scoring.run_watch.monotonic", lambda: next(clock))

    def another_run(seconds: float) -> bool:
        """In the place of a wait between two looks."""
        watch.end()
        watch.begin(on_loop=False)
        return next(looks, None) is None

    monkeypatch.setattr(watch._stopped, "wait", another_run)
    watch._watch()
    assert watch.run == 4 * CHECKS + 1
    assert hung == []


def test_an_idle_engine_does_not_hang(watched: Watched) -> None:
    """Between runs no time counts."""
    watched.watch.begin(on_loop=False)
    watched.watch.end()
    time.sleep(3 * SECONDS)  # Nothing may happen in this time.
    assert watched.hung == []


STOPPED = """
import os, signal, subprocess, time
from app.scoring.run_watch import RunWatch
hung = []
watch = RunWatch(2.0, lambda *run: hung.append(run))
watch.start()
waker = subprocess.Popen(["sh", "-c", f"sleep 4; kill -CONT {os.getpid()}"])
watch.begin(False)
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(0.5)
watch.end()
print(hung)
"""


@pytest.mark.slow
def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    """After SIGSTOP and SIGCONT, or a pause of the machine, a run has its time."""
    done = subprocess.run(
        [sys.executable, "-c", STOPPED], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
