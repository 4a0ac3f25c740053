"""A supervisor's times, by a clock of the test's own: pauses, waking, and the end."""

from __future__ import annotations

import signal
import socket

import pytest

from app.workers import supervisor
from app.workers.shared_numbers import SharedNumbers
from app.workers.supervisor import FIRST_PAUSE, GRACE_SECONDS, STEADY_SECONDS, Supervisor

DRAIN_SECONDS = 10.0
SLACK = 0.01
"""Seconds that it wakes after what is due."""


class Clock:
    """A time that passes as the test says."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The supervisor's clock."""
    made = Clock()
    monkeypatch.setattr(supervisor, "monotonic", made)
    return made


def idle(workers: int = 1, shared: SharedNumbers | None = None) -> Supervisor:
    """A supervisor that has started nothing."""
    listeners: list[list[socket.socket]] = [[] for _ in range(workers)]
    return Supervisor(listeners, shared or SharedNumbers(workers), lambda _: 0, DRAIN_SECONDS)


def test_failures_before_a_steady_worker_are_forgotten(clock: Clock) -> None:
    """Its own successor starts at once, and so does the next one's: they count anew."""
    shared = SharedNumbers()
    shared.set_ready()
    made = idle(shared=shared)
    (worker,) = made._workers
    pauses = []
    for lived in (1.0, 1.0, 1.0, STEADY_SECONDS, 1.0, 1.0):
        worker.started = clock.now
        clock.now += lived
        made._ended(worker, 1)
        pauses.append(worker.due - clock.now)
    expected = [0.0, FIRST_PAUSE, 2 * FIRST_PAUSE, 0.0, 0.0, FIRST_PAUSE]
    assert pauses == pytest.approx(expected)


def test_it_wakes_for_what_is_due_first(clock: Clock) -> None:
    """What is overdue is looked at almost at once; where nobody waits, only a signal wakes it."""
    made = idle(workers=2)
    first, second = made._workers
    first.due, second.due = clock.now + 30.0, clock.now + 0.5
    assert made._patience() == pytest.approx(0.5 + SLACK)
    second.due = clock.now - 10.0
    assert made._patience() == pytest.approx(SLACK)
    # Both run; nothing is sent to them, and there are no processes of these numbers.
    first.pid = second.pid = 2**22 + 1
    assert made._patience() is None


def test_the_end_has_its_time_however_often_it_is_asked_for(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time to drain and a grace, from the first signal on."""
    made = idle()
    told: list[signal.Signals] = []
    monkeypatch.setattr(made, "_tell", told.append)
    made._stop()
    assert made._patience() == pytest.approx(DRAIN_SECONDS + GRACE_SECONDS + SLACK)
    clock.now += 4.0
    made._stop()
    assert made._patience() == pytest.approx(DRAIN_SECONDS + GRACE_SECONDS - 4.0 + SLACK)
    assert told == [signal.SIGTERM] * 2
