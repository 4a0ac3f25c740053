"""A hundred thousand bodies that no caller should send."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from time import perf_counter

from tests.drills.faults.drive import run
from tests.drills.faults.figures import Figure
from tests.drills.faults.stage import Stage
from tests.fuzz.campaign import fuzz

BODIES, SEED = 100_000, 1
ROWS = 500
PROBLEMS = (
    "5xx", "unexpected status", "no answer", "connection cut", "answers of another form",
    "wrong places named", "neighbours with a wrong answer",
)  # fmt: skip


def mutated_bodies(stage: Stage) -> Iterator[Figure]:
    """Mutated bodies over kept connections: each answered as it should be, valid ones between too.

    The deadline is far away, so that 504 would mean that something hangs.
    """
    rows = [dict(row) for row in stage.rows[:ROWS]]
    with stage.service(deadline_ms=30_000) as service:
        expected = [service.predict([row])[0] for row in rows]
        before = service.resident_bytes()
        start = perf_counter()
        outcome = run(fuzz(service.port, rows, expected, BODIES, SEED))
        seconds = perf_counter() - start
        growth = (service.resident_bytes() / before - 1) * 100
    for problem in outcome.problems:
        print(problem, file=sys.stderr)
    yield Figure("bodies without an answer", BODIES - outcome.statuses.total(), 0, exact=True)
    for status, count in sorted(outcome.statuses.items()):
        yield Figure(f"answers {status}", count)
    for kind in PROBLEMS:
        yield Figure(kind, outcome.counts.pop(kind, 0), 0, exact=True)
    yield Figure("other problems", outcome.counts.total(), 0, exact=True)
    yield Figure("valid requests in between", outcome.neighbours)
    yield Figure("longest answer", outcome.longest * 1e3, unit="ms")
    yield Figure("time", seconds, unit="s")
    yield Figure("memory: growth", growth, unit="%")
