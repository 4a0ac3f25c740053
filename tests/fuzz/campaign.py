"""Mutated bodies on a running service, over kept connections, with valid requests among them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from tests.fuzz.bodies import Made, Maker, Row
from tests.support.errors import error_of, paths
from tests.support.serving import Wire, strict

PATIENCE = 20.0
"""Seconds after which an answer counts as one that never comes."""
CONNECTIONS = 8
NEIGHBOUR_EVERY = 4
COMPANY = 1e-6
"""Largest difference from the score of the row alone, as other company in a batch explains."""
STATUSES = {200, 400, 413, 422}
MAX_PROBLEMS = 20


@dataclass
class Outcome:
    """The outcome of the bodies: the number of answers of each status, and the longest of all.

    Every kind of problem is counted, and the first few told with the body's number.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    neighbours: int = 0
    longest: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def note(self, kind: str, number: int, what: object) -> None:
        """Count a problem."""
        self.counts[kind] += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"{kind}: body {number}: {what}"[:500])


async def fuzz(
    port: int, rows: Sequence[Row], expected: Sequence[float], count: int, seed: int
) -> Outcome:
    """Send bodies 0 to ``count`` of a seed; ``expected`` are the rows' scores, each alone."""
    outcome = Outcome()
    maker = Maker(rows, seed)
    numbers = iter(range(count))
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(_caller(port, maker, numbers, rows, expected, outcome))
    return outcome


async def _caller(
    port: int,
    maker: Maker,
    numbers: Iterator[int],
    rows: Sequence[Row],
    expected: Sequence[float],
    outcome: Outcome,
) -> None:
    wire = await Wire.open(port)
    try:
        for number in numbers:
            made = maker.make(number)
            answer = await _ask(wire, made.path, made.body, number, outcome)
            if answer is not None:
                judge(made, number, *answer, outcome)
            if answer is None or "connection: close" in wire.head:
                await wire.close()
                wire = await Wire.open(port)
            if number % NEIGHBOUR_EVERY == 0:
                place = number // NEIGHBOUR_EVERY % len(rows)
                body = json.dumps({"instances": [rows[place]]}).encode()
                answer = await _ask(wire, "/predict", body, number, outcome)
                outcome.neighbours += 1
                if answer is None or not _right(answer, expected[place]):
                    outcome.note("neighbours with a wrong answer", number, answer)
    finally:
        await wire.close()


async def _ask(
    wire: Wire, path: str, body: bytes, number: int, outcome: Outcome
) -> tuple[int, bytes] | None:
    start = perf_counter()
    try:
        async with asyncio.timeout(PATIENCE):
            answer = await wire.post(path, body)
    except TimeoutError:
        outcome.note("no answer", number, f"{PATIENCE:g} s")
        return None
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        outcome.note("connection cut", number, repr(error))
        return None
    outcome.longest = max(outcome.longest, perf_counter() - start)
    return answer


def _right(answer: tuple[int, bytes], score: float) -> bool:
    status, content = answer
    return status == 200 and abs(strict(content)["predictions"][0] - score) <= COMPANY


def judge(made: Made, number: int, status: int, content: bytes, outcome: Outcome) -> None:
    """Note what is wrong with the answer to a body."""
    outcome.statuses[status] += 1
    if status not in STATUSES:
        outcome.note("5xx" if status >= 500 else "unexpected status", number, (status, content))
        return
    try:
        found: Any = strict(content) if status == 200 else error_of(content)
    except (AssertionError, ValueError) as error:
        outcome.note("answers of another form", number, repr(error))
        return
    if made.wrong is None:
        return
    if status != 422 or paths(found) != [made.wrong]:
        outcome.note("wrong places named", number, (made.wrong, status, content))
