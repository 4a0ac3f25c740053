"""Services that end, by SIGTERM or by SIGKILL of a worker, and what it costs those who ask."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter

from tests.drills.faults.drive import PATIENCE, Answer, Request, ask, run
from tests.drills.faults.figures import Figure, percentile
from tests.drills.faults.slow_service import SLOW, VARIABLE
from tests.drills.faults.stage import Stage, predict
from tests.support.serving import Service, Wire, wait_until, workers_of

ROUNDS = 20
CALLERS = 16
RUN_MS = 10
"""Time that each engine run takes more: at any moment most callers wait for one."""
READ_SECONDS = 0.02
"""A request that was sent so long before a signal has surely been read by then."""
END_SECONDS = 5.0
WORKERS, CONNECTIONS = 4, 40
CALM, AFTER = 0.5, 3.0
REPLACED_SECONDS = 2.0


@dataclass
class Round:
    """A record of the callers of one service, which was told to end at the moment ``told``."""

    answered: int = 0
    refused: int = 0
    cut: list[float] = field(default_factory=list)
    """Times at which requests were sent that got no answer, or part of one."""
    partial: int = 0
    told: float = 0.0
    seconds: float = 0.0


async def ask_until_closed(port: int, request: Request, seen: Round) -> None:
    """Ask again and again on one connection, until the service closes it."""
    wire = await Wire.open(port)
    try:
        while True:
            sent = perf_counter()
            try:
                answer = await ask(wire, request)
            except asyncio.IncompleteReadError as error:
                seen.partial += bool(error.partial)
                seen.cut.append(sent)
                return
            except ConnectionError:
                seen.cut.append(sent)
                return
            if answer.status == 200:
                seen.answered += 1
            else:
                seen.refused += 1
            if not wire.usable or "connection: close" in wire.head:
                return
    finally:
        await wire.close()


def sigterm_under_load(stage: Stage) -> Iterator[Figure]:
    """SIGTERM twenty times under load, half of them with two workers: nothing accepted is lost."""
    rng = random.Random(20)
    request = predict(stage.rows[0])
    rounds = []

    async def scene(service: Service) -> Round:
        seen = Round()
        callers = [
            asyncio.create_task(ask_until_closed(service.port, request, seen))
            for _ in range(CALLERS)
        ]
        await asyncio.sleep(rng.uniform(0.3, 0.8))
        seen.told = perf_counter()
        service.terminate()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*callers)
        await asyncio.to_thread(service.process.wait, PATIENCE)
        seen.seconds = perf_counter() - seen.told
        return seen

    for number in range(ROUNDS):
        env = {VARIABLE: str(RUN_MS)}
        with stage.service(SLOW, env, workers=1 + number % 2, max_batch_rows=4) as service:
            rounds.append(run(scene(service)))
    read = [sum(seen.told - sent > READ_SECONDS for sent in seen.cut) for seen in rounds]
    before = [sum(seen.told > sent for sent in seen.cut) for seen in rounds]
    yield Figure("services that were ended", len(rounds))
    yield Figure("requests answered", sum(seen.answered for seen in rounds))
    yield Figure("accepted requests without an answer", sum(read), 0, exact=True)
    yield Figure("answers that were cut", sum(seen.partial for seen in rounds), 0, exact=True)
    yield Figure("answers other than 200", sum(seen.refused for seen in rounds), 0, exact=True)
    yield Figure("sent in the last 20 ms before the signal and not read", sum(before))
    longest = max(seen.seconds for seen in rounds)
    yield Figure("from the signal to the end, longest", longest, END_SECONDS, "s")


@dataclass
class Death:
    """A record of one worker's death: failures by connection, and waits of new ones."""

    failed: list[int]
    waits: list[float] = field(default_factory=list)
    other: int = 0
    gone: float = 0.0


async def ask_on_one(port: int, request: Request, number: int, seen: Death, until: float) -> None:
    """Ask on one connection, and on another one after a failure."""
    wire = await Wire.open(port)
    while perf_counter() < until:
        try:
            answer = await ask(wire, request)
            seen.other += answer.status != 200
        except (ConnectionError, asyncio.IncompleteReadError):
            seen.failed[number] += 1
            await wire.close()
            wire = await Wire.open(port)
        await asyncio.sleep(0.005)
    await wire.close()


async def ask_anew(port: int, request: Request, seen: Death, until: float) -> None:
    """Ask on a new connection each time; the kernel may give it to the dead worker's socket."""

    async def one() -> None:
        start = perf_counter()
        wire = await Wire.open(port)
        try:
            answer: Answer = await ask(wire, request)
            seen.other += answer.status != 200
            seen.waits.append(perf_counter() - start)
        except (ConnectionError, asyncio.IncompleteReadError):
            seen.failed.append(1)
        finally:
            await wire.close()

    async with asyncio.TaskGroup() as group:
        while perf_counter() < until:
            group.create_task(one())
            await asyncio.sleep(0.01)


def killed_worker(stage: Stage) -> Iterator[Figure]:
    """SIGKILL of each of four workers in turn: it takes its own requests and no others."""
    request = predict(stage.rows[0])

    async def scene(service: Service, victim: int) -> Death:
        seen = Death([0] * CONNECTIONS)
        until = perf_counter() + CALM + AFTER
        asking = [
            asyncio.create_task(ask_on_one(service.port, request, number, seen, until))
            for number in range(CONNECTIONS)
        ]
        await asyncio.sleep(CALM)
        start = perf_counter()
        os.kill(victim, signal.SIGKILL)
        # By then it is dead: a connection that it had accepted would be one of its own.
        await asyncio.sleep(0.01)
        asking.append(asyncio.create_task(ask_anew(service.port, request, seen, until)))

        def replaced() -> bool:
            return len(set(workers_of(service)) - {victim}) == WORKERS

        await asyncio.to_thread(wait_until, replaced, "it is replaced", 30)
        seen.gone = perf_counter() - start
        await asyncio.gather(*asking)
        return seen

    with stage.service(workers=WORKERS, expected="ended by signal 9") as service:
        deaths = [run(scene(service, victim)) for victim in workers_of(service)]
    failed = [sum(seen.failed[:CONNECTIONS]) for seen in deaths]
    yield Figure("workers killed", len(deaths))
    yield Figure("requests that failed, most at one death", max(failed), unit=f"of {CONNECTIONS}")
    twice = sum(count > 1 for seen in deaths for count in seen.failed[:CONNECTIONS])
    yield Figure("connections that failed twice", twice, 0, exact=True)
    spared = sum(not 0 < count < CONNECTIONS for count in failed)
    yield Figure("deaths that took all connections, or none", spared, 0, exact=True)
    yield Figure("answers other than 200", sum(seen.other for seen in deaths), 0, exact=True)
    refused = sum(len(seen.failed) - CONNECTIONS for seen in deaths)
    yield Figure("new connections that failed", refused, 0, exact=True)
    waits = [wait for seen in deaths for wait in seen.waits]
    yield Figure("new process is there, longest", max(s.gone for s in deaths), 1, "s")
    yield Figure("new connections: half of them wait", percentile(waits, 0.5) * 1e3, unit="ms")
    yield Figure("new connections: longest wait", max(waits), REPLACED_SECONDS, "s")
