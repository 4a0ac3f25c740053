"""Hours of a service in minutes: mixed load, bad input, swaps, Redis going and coming back.

Memory, descriptors, threads and asyncio tasks are taken twice, each time some seconds after the
load has paused: when the service has warmed up, and in the end. They may grow by 5 %. Every
answer is checked: its score must be that of the version that it names.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from app.bundle.directory import CURRENT
from tests.drills.faults.drive import Request, ask, leave_after, run
from tests.drills.faults.figures import Figure, Found, as_json, failures, percentile, table
from tests.drills.faults.lists import COMPANY
from tests.drills.faults.redis_outage import redis_with, scores_of
from tests.drills.faults.stage import Row, Stage, predict, rank
from tests.drills.watched_service import VARIABLE, WATCHED
from tests.fuzz.bodies import Maker
from tests.fuzz.campaign import Outcome, judge
from tests.support.redis_server import RedisServer
from tests.support.serving import Service, Wire, strict, wait_until, workers_of
from tests.support.vocabularies import publish_now, publish_to

ROWS = 50
LONGEST_LIST = 300
PAUSE = 0.01
"""Seconds between a caller's requests."""
CYCLE = 60.0
"""Seconds from a swap to the next, and from an outage of Redis to the next, half-way between."""
OUTAGE = 4.0
WARM_CYCLES, LEAST_CYCLES = 3, 6
REST = 12.0
"""Seconds after which idle connections are closed and replaced bundles gone."""
DEADLINE_MS = 5_000
GROWTH = 5.0
"""Per cent."""
OWN = ("Pss_Anon:", "Pss_Shmem:")
"""Memory that only the service's processes have; what files take depends on who else reads them."""


@dataclass
class Taken:
    """The resources of all processes of a service."""

    pss: int = 0
    descriptors: int = 0
    threads: int = 0
    tasks: int = 0


@dataclass
class Seen:
    """A record of the callers."""

    answers: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    wrong: int = 0
    failed: int = 0
    bad: Outcome = field(default_factory=Outcome)
    swaps: int = 0
    outages: int = 0
    under_load: list[int] = field(default_factory=list)
    """Memory every five seconds."""
    seconds: list[float] = field(default_factory=list)

    def note(self, problem: object) -> None:
        """Count a failure, and keep the first few."""
        self.failed += 1
        if len(self.problems) < 20:
            self.problems.append(str(problem)[:300])


def taken(service: Service, directory: Path) -> Taken:
    """Look at every process of a service."""
    found = Taken()
    for pid in (service.process.pid, *workers_of(service)):
        process = Path(f"/proc/{pid}")
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith(OWN):
                found.pss += int(line.split()[1]) * 1024
        found.descriptors += len(os.listdir(process / "fd"))
        found.threads += len(os.listdir(process / "task"))
        told = directory / str(pid)
        found.tasks += int(told.read_text()) if told.exists() else 0
    return found


class Soak:
    """One run: callers, harm, and what came of it."""

    def __init__(
        self,
        stage: Stage,
        service: Service,
        server: RedisServer,
        bundles: Path,
        tasks: Path,
    ) -> None:
        self._stage, self._service, self._server = stage, service, server
        self._bundles, self._tasks = bundles, tasks
        self._rows = [dict(row) for row in stage.rows[:ROWS]]
        self._versions = [stage.bundle, stage.other]
        self._expected = {
            each.name: [score for (score,) in scores_of(stage, self._rows, each)]
            for each in self._versions
        }
        self._maker = Maker(self._rows, seed=3)
        self._made = 0
        self._over = False
        self.seen = Seen()

    async def run(self, seconds: float) -> tuple[Taken, Taken]:
        """Load for so long; return what was taken after the warm-up and in the end."""
        cycle = min(CYCLE, seconds / LEAST_CYCLES)
        first = await self._loaded(WARM_CYCLES * cycle, cycle)
        last = await self._loaded(seconds - WARM_CYCLES * cycle, cycle)
        return first, last

    async def _loaded(self, seconds: float, cycle: float) -> Taken:
        """Load and harm for so long, then rest and look."""
        self._over = False
        end = perf_counter() + seconds
        callers = [
            *(asyncio.create_task(self._caller(self._predict, n)) for n in range(4)),
            *(asyncio.create_task(self._caller(self._rank, n)) for n in range(2)),
            asyncio.create_task(self._caller(self._bad, 0)),
            asyncio.create_task(self._leaver()),
            asyncio.create_task(self._newcomer()),
        ]
        harm = asyncio.create_task(self._harm(end, cycle))
        while perf_counter() < end:
            await asyncio.sleep(min(5.0, max(0.0, end - perf_counter())))
            now = await asyncio.to_thread(taken, self._service, self._tasks)
            self.seen.under_load.append(now.pss)
        await harm
        self._over = True
        await asyncio.gather(*callers)
        await asyncio.sleep(REST)
        return await asyncio.to_thread(taken, self._service, self._tasks)

    async def _caller(
        self, act: Callable[[Wire, random.Random], Awaitable[None]], number: int
    ) -> None:
        """Act again and again on one connection, or on another one where that is closed."""
        rng = random.Random(f"{act.__name__} {number}")
        wire = await Wire.open(self._service.port)
        while not self._over:
            if not wire.usable or "connection: close" in wire.head:
                await wire.close()
                wire = await Wire.open(self._service.port)
            try:
                await act(wire, rng)
            except (ConnectionError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.seen.note(f"{act.__name__}: {error!r}")
                await wire.close()
                wire = await Wire.open(self._service.port)
            await asyncio.sleep(PAUSE)
        await wire.close()

    async def _predict(self, wire: Wire, rng: random.Random) -> None:
        numbers = rng.sample(range(ROWS), rng.randint(1, 8))
        answer = await ask(wire, predict(*(self._rows[number] for number in numbers)))
        self.seen.seconds.append(answer.seconds)
        if found := self._checked(answer.status, answer.content):
            self._compare(found["version"], numbers, found["predictions"])

    async def _rank(self, wire: Wire, rng: random.Random) -> None:
        number = rng.randrange(ROWS)
        row: Row = self._rows[number]
        count = rng.randint(1, LONGEST_LIST)
        answer = await ask(wire, rank(row, [row] * count))
        if found := self._checked(answer.status, answer.content):
            scores = [place["score"] for place in found["ranking"]]
            self._compare(found["version"], [number] * count, scores)

    async def _bad(self, wire: Wire, rng: random.Random) -> None:
        number = self._made
        self._made += 1
        made = self._maker.make(number)
        answer = await ask(wire, Request(made.path, made.body))
        judge(made, number, answer.status, answer.content, self.seen.bad)
        self.seen.answers["bad input"] += 1

    async def _leaver(self) -> None:
        rng = random.Random(5)
        while not self._over:
            request = rank(self._rows[0], [self._rows[1]] * LONGEST_LIST)
            await leave_after(self._service.port, request, rng.uniform(0.0, 0.004))
            self.seen.answers["departed"] += 1
            await asyncio.sleep(10 * PAUSE)

    async def _newcomer(self) -> None:
        while not self._over:
            wire = await Wire.open(self._service.port)
            try:
                answer = await ask(wire, predict(self._rows[0]))
                if found := self._checked(answer.status, answer.content):
                    self._compare(found["version"], [0], found["predictions"])
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                self.seen.note(f"new connection: {error!r}")
            await wire.close()
            await asyncio.sleep(10 * PAUSE)

    def _checked(self, status: int, content: bytes) -> dict[str, Any]:
        """Return the content of an answer; nothing, and a failure, if it is not 200."""
        if status != 200:
            self.seen.note((status, content))
            return {}
        self.seen.answers["200"] += 1
        found: dict[str, Any] = strict(content)
        return found

    def _compare(self, version: object, numbers: Sequence[int], scores: Sequence[float]) -> None:
        expected = self._expected[str(version)]
        self.seen.wrong += len(scores) != len(numbers) or any(
            abs(score - expected[number]) > COMPANY
            for number, score in zip(numbers, scores, strict=False)
        )

    async def _harm(self, end: float, cycle: float) -> None:
        """By turns another bundle and an outage of Redis, half a cycle apart."""
        while perf_counter() + cycle <= end + 1:
            start = perf_counter()
            self._versions.reverse()
            await self._swap(self._versions[0].name)
            await asyncio.sleep(max(0.0, start + cycle / 2 - perf_counter()))
            await self._break_redis()
            await asyncio.sleep(max(0.0, start + cycle - perf_counter()))

    async def _swap(self, version: str) -> None:
        (self._bundles / ".next").write_text(version)
        (self._bundles / ".next").replace(self._bundles / CURRENT)

        def serves() -> bool:
            return bool(strict(self._service.client.get("/ready").content)["version"] == version)

        await asyncio.to_thread(wait_until, serves, f"{version} serves", 60)
        self.seen.swaps += 1

    async def _break_redis(self) -> None:
        await asyncio.to_thread(self._server.stop)
        await asyncio.sleep(OUTAGE)
        await asyncio.to_thread(self._server.start)
        for bundle in self._versions:
            await publish_to(self._server.url, bundle)
        self.seen.outages += 1


def quarters(values: Sequence[int]) -> list[Sequence[int]]:
    """Cut what was seen into four parts, in the order of the time."""
    bounds = [len(values) * number // 4 for number in range(5)]
    return [values[start:stop] for start, stop in pairwise(bounds)]


def growth(first: float, last: float) -> float:
    """By how many per cent the second is more."""
    return (last / first - 1) * 100


def soak(stage: Stage, minutes: float, workers: int) -> Iterator[Figure]:
    """Load a service for so long and say what it takes more in the end."""
    with (
        redis_with(stage) as server,
        tempfile.TemporaryDirectory() as bundles_name,
        tempfile.TemporaryDirectory() as tasks_name,
    ):
        bundles, tasks = Path(bundles_name), Path(tasks_name)
        publish_now(server.url, stage.other)
        for bundle in (stage.bundle, stage.other):
            shutil.copytree(bundle, bundles / bundle.name)
        (bundles / CURRENT).write_text(stage.bundle.name)
        # With room for one value every request has something to ask Redis for.
        settings: dict[str, Any] = {
            "redis_url": server.url, "vocabulary_cache": 1, "workers": workers,
            "bundle_poll_seconds": 0.5, "deadline_ms": DEADLINE_MS,
        }  # fmt: skip
        env = {VARIABLE: str(tasks)}
        with stage.service(WATCHED, env, bundle=bundles, **settings) as service:
            work = Soak(stage, service, server, bundles, tasks)
            first, last = run(work.run(minutes * 60))
            stood_in = service.metrics()['ctr_vocabulary_fallbacks_total{fallback="snapshot"}']
    seen = work.seen
    for problem in [*seen.problems, *seen.bad.problems]:
        print(problem, file=sys.stderr)
    for name in ("200", "bad input", "departed"):
        yield Figure(f"answers: {name}", seen.answers[name])
    yield Figure("swaps", seen.swaps)
    yield Figure("outages of Redis", seen.outages)
    yield Figure("values that the bundle's own copy stood in for", stood_in)
    yield Figure("answers other than 200 to valid requests", seen.failed, 0, exact=True)
    yield Figure("scores of another version than named", seen.wrong, 0, exact=True)
    yield Figure("bad input answered wrongly", seen.bad.counts.total(), 0, exact=True)
    yield Figure("/predict: p99", percentile(seen.seconds, 0.99) * 1e3, unit="ms")
    mib = 2**20
    yield Figure("memory (PSS) when warm", first.pss / mib, unit="MiB")
    yield Figure("memory (PSS) in the end", last.pss / mib, unit="MiB")
    for number, part in enumerate(quarters(seen.under_load), 1):
        yield Figure(f"memory under load, quarter {number}", median(part) / mib, unit="MiB")
    yield Figure("memory under load, highest", max(seen.under_load) / mib, unit="MiB")
    yield Figure("memory: growth", growth(first.pss, last.pss), GROWTH, "%", exact=True)
    for name in ("descriptors", "threads", "tasks"):
        one, two = getattr(first, name), getattr(last, name)
        yield Figure(f"{name} when warm", one)
        yield Figure(f"{name}: growth", growth(one, two), GROWTH, "%", exact=True)


def main() -> int:
    """Run it and print the figures; 1 where something failed or grew."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15, help="default 15")
    parser.add_argument("--workers", type=int, default=1, help="processes of the service")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        figures = list(soak(Stage(Path(directory)), options.minutes, options.workers))
    found: Found = [("soak", figure) for figure in figures]
    print(table(found))
    if options.json:
        options.json.write_text(as_json(found))
    for problem in failures(found):
        print(f"FAILED {problem}", file=sys.stderr)
    return 1 if failures(found) else 0


if __name__ == "__main__":
    sys.exit(main())
