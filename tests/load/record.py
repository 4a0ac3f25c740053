"""Records of the service's answers, and of the generator itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.load.histogram import Histogram

RIGHT, WRONG, REFUSED = "200", "wrong answer", "429"
POOL_TIMEOUT, OWN_SOCKETS = "pool timeout", "own sockets exhausted"
CONNECT_TIMEOUT, CONNECT_FAILED = "connect timeout", "connect failed"
READ_TIMEOUT, WRITE_TIMEOUT, LOST = "read timeout", "write timeout", "connection lost"

OWN_FAULTS = (POOL_TIMEOUT, OWN_SOCKETS)
"""Failures of the generator: the service never saw the request."""
UNANSWERED = (CONNECT_TIMEOUT, CONNECT_FAILED, READ_TIMEOUT, WRITE_TIMEOUT, LOST)
"""The service, or the way to it, gave no answer."""


@dataclass(slots=True)
class Stats:
    """Outcomes of the requests that were due in the measured time, with their durations."""

    outcomes: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)
    """Right answers, from the intended send."""
    service: Histogram = field(default_factory=Histogram)
    """Right answers, from the actual send."""
    refused: Histogram = field(default_factory=Histogram)
    """429, from the intended send."""
    arrived: int = 0
    """Right answers that came within the measured time, whenever they were asked for."""

    def count_one(self, outcome: str, latency: int, service: int) -> None:
        """Count a request's end; durations in microseconds."""
        self.outcomes[outcome] += 1
        if outcome == RIGHT:
            self.latency.record(latency)
            self.service.record(service)
        elif outcome == REFUSED:
            self.refused.record(latency)

    @property
    def count(self) -> int:
        """All requests."""
        return self.outcomes.total()

    @property
    def failed(self) -> int:
        """Requests without a right answer."""
        return self.count - self.outcomes[RIGHT]

    def merge(self, other: Stats) -> None:
        """Add what another one counted."""
        self.outcomes.update(other.outcomes)
        self.latency.merge(other.latency)
        self.service.merge(other.service)
        self.refused.merge(other.refused)
        self.arrived += other.arrived


@dataclass(slots=True)
class Own:
    """The generator's own work; durations in microseconds."""

    scheduled: int = 0
    sent: int = 0
    """Requests sent within the measured time, those whose connection failed included."""
    send_delay: Histogram = field(default_factory=Histogram)
    """Intended to actual send, less the waits for a connection and for its handshake."""
    connection_wait: Histogram = field(default_factory=Histogram)
    """Waits because all connections that may be used were."""
    connect: Histogram = field(default_factory=Histogram)
    loop_lag: Histogram = field(default_factory=Histogram)
    """Delays of the event loop behind what was due."""
    most_in_flight: int = 0
    most_connections: int = 0
    """Most connections in use at once."""
    most_waiting: int = 0
    connections_opened: int = 0
    cpu: list[float] = field(default_factory=list)
    """Share of a core that each process used."""

    def merge(self, other: Own) -> None:
        """Add another process' own figures; the sums of peaks are upper bounds."""
        for name in ("send_delay", "connection_wait", "connect", "loop_lag"):
            getattr(self, name).merge(getattr(other, name))
        for name in ("scheduled", "sent", "most_in_flight", "most_connections", "most_waiting",
                     "connections_opened"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.cpu += other.cpu


@dataclass(slots=True)
class Record:
    """Everything a run measured. ``window`` is the measured time in seconds."""

    window: float
    interrupted: bool = False
    cut_off: int = 0
    """Requests on their way at the interruption; they are counted nowhere else."""
    kinds: dict[str, Stats] = field(default_factory=dict)
    seconds: dict[int, Stats] = field(default_factory=dict)
    """By the second in which the request was due, from the start of the measured time."""
    own: Own = field(default_factory=Own)
    samples: dict[str, str] = field(default_factory=dict)
    """One message for each outcome other than a right answer."""

    def kind(self, name: str) -> Stats:
        """Statistics of a part of the mix."""
        return self.kinds.setdefault(name, Stats())

    def second(self, number: int) -> Stats:
        """Statistics of a second."""
        return self.seconds.setdefault(number, Stats())

    @property
    def total(self) -> Stats:
        """All parts of the mix together."""
        return _sum(self.kinds.values())

    def merge(self, other: Record) -> None:
        """Add another process' record."""
        self.window = min(self.window, other.window)
        self.interrupted |= other.interrupted
        self.cut_off += other.cut_off
        for name, stats in other.kinds.items():
            self.kind(name).merge(stats)
        for number, stats in other.seconds.items():
            self.second(number).merge(stats)
        self.own.merge(other.own)
        self.samples = other.samples | self.samples


def _sum(each: Iterable[Stats]) -> Stats:
    total = Stats()
    for stats in each:
        total.merge(stats)
    return total
