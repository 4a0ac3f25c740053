"""Callers who leave before they have their answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

from tests.drills.faults.drive import Answer, Request, ask_in_turn, leave_after, run
from tests.drills.faults.figures import Figure, p99
from tests.drills.faults.slow_service import SLOW, VARIABLE
from tests.drills.faults.stage import Stage, predict
from tests.support.serving import Service, wait_until

RUN_MS = 20


def impatient_callers(stage: Stage) -> Iterator[Figure]:
    """500 callers who give up after 1 to 20 ms leave nothing behind for those who come later."""
    rng = random.Random(1)
    patient = [predict(row) for row in stage.rows[:200]]
    hasty = [(request, rng.uniform(0.001, 0.020)) for request in patient * 3][:500]

    async def crowd(port: int) -> list[Answer]:
        turns = asyncio.Semaphore(50)

        async def one(request: Request, patience: float) -> Answer:
            async with turns:
                return await leave_after(port, request, patience)

        return await asyncio.gather(*(one(*each) for each in hasty))

    with stage.service(SLOW, {VARIABLE: str(RUN_MS)}, max_batch_rows=8) as service:
        before = run(ask_in_turn(service.port, patient, 32))
        left = [answer.status for answer in run(crowd(service.port))].count(0)
        wait_until(lambda: queued(service) == 0, "the queue is empty", 30)
        after = run(ask_in_turn(service.port, patient, 32))
        found = service.metrics()
    first, last = (p99([answer.seconds for answer in part]) for part in (before, after))
    yield Figure("500 impatient callers who got an answer", 500 - left, 250, exact=True)
    yield Figure("before them: answers other than 200", failures(before), 0, exact=True)
    yield Figure("after them: answers other than 200", failures(after), 0, exact=True)
    yield Figure("before them: p99", first * 1e3, unit="ms")
    yield Figure("after them: p99 as a multiple", last / first, 1.2)
    yield Figure("rows left in the queue", found["ctr_queued_rows"], 0, exact=True)


def queued(service: Service) -> float:
    """The rows that wait for the engine."""
    return service.metrics()["ctr_queued_rows"]


def failures(answers: list[Answer]) -> int:
    """The number of answers that are not 200."""
    return sum(answer.status != 200 for answer in answers)


def departed_callers(stage: Stage) -> Iterator[Figure]:
    """Of 500 callers who leave a queue of one second after 100 ms, hardly any row is scored."""
    rows_of_a_run, callers = 4, 500
    waiting = 1000 // RUN_MS * rows_of_a_run
    fill = [predict(row) for row in stage.rows[:waiting]]

    async def scene(service: Service) -> tuple[list[Answer], list[Answer]]:
        filling = asyncio.create_task(ask_in_turn(service.port, fill, waiting))
        await asyncio.to_thread(
            wait_until, lambda: queued(service) > waiting / 2, "the queue is filled"
        )
        leaving = (leave_after(service.port, fill[0], 0.1) for _ in range(callers))
        return await asyncio.gather(*leaving), await filling

    with stage.service(
        SLOW, {VARIABLE: str(RUN_MS)}, max_batch_rows=rows_of_a_run, deadline_ms=30_000
    ) as service:
        left, filled = run(scene(service))
        wait_until(lambda: queued(service) == 0, "the queue is empty", 30)
        found = service.metrics()
    outcomes = {
        code: found[f'ctr_requests_total{{outcome="{code}",route="predict"}}']
        for code in ("500", "503", "504", "gone")
    }
    gone = sum(answer.status == 0 for answer in left)
    yield Figure("rows scored for 500 callers who left", found["ctr_rows_total"] - waiting, 50)
    yield Figure("those who stayed: answers other than 200", failures(filled), 0, exact=True)
    yield Figure(
        "departures that were not counted as such", abs(gone - outcomes["gone"]), 0, exact=True
    )
    server_errors = sum(outcomes[code] for code in ("500", "503", "504"))
    yield Figure("departures counted as 5xx", server_errors, 0, exact=True)
