"""More load than the service has room for, and what remains of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.drills.faults.drive import Answer, ask_in_turn, offer, run
from tests.drills.faults.figures import Figure, p99
from tests.drills.faults.slow_service import SLOW, VARIABLE
from tests.drills.faults.stage import Stage, predict
from tests.support.serving import Service

RUN_MS, RUN_ROWS = 20, 2
OVERLOAD, AFTERWARDS = 30.0, 30.0
SETTLING = 5.0


def overload(stage: Stage) -> Iterator[Figure]:
    """Ten times the capacity for 30 s: refused at once or served in time, and soon forgotten."""
    request = predict(stage.rows[0])
    resident: list[int] = []

    async def watch(service: Service) -> None:
        while True:
            await asyncio.sleep(1)
            resident.append(service.resident_bytes())

    async def scene(service: Service) -> tuple[float, list[Answer], list[Answer], list[Answer]]:
        port = service.port
        warm = await ask_in_turn(port, [request] * 400, 32)
        capacity = 32 / (sum(answer.seconds for answer in warm) / len(warm))
        before = await offer(port, request, capacity / 2, 10)
        watching = asyncio.create_task(watch(service))
        during = await offer(port, request, capacity * 10, OVERLOAD)
        watching.cancel()
        after = await offer(port, request, capacity / 2, AFTERWARDS)
        return capacity, before, during, after

    with stage.service(SLOW, {VARIABLE: str(RUN_MS)}, max_batch_rows=RUN_ROWS) as service:
        deadline = 1.0
        capacity, before, during, after = run(scene(service))
        offered = len(during) / OVERLOAD
    refused = [answer for answer in during if answer.status == 429]
    served = [answer for answer in during if answer.status == 200]
    late = [answer for answer in during if answer.status == 504]
    other = len(during) - len(refused) - len(served) - len(late)
    settled = after[int(len(after) * SETTLING / AFTERWARDS) :]
    normal, again = (p99([answer.seconds for answer in part]) for part in (before, settled))
    yield Figure("capacity", capacity, unit="requests/s")
    yield Figure("offered", offered, unit="requests/s")
    yield Figure("sent later than planned: p99", p99([a.lag for a in during]) * 1e3, 50, "ms")
    yield Figure("served", len(served) / OVERLOAD, unit="requests/s")
    yield Figure("answers other than 200, 429 and 504", other, 0, exact=True)
    hinted = sum(answer.retry_after for answer in refused)
    yield Figure("refusals without Retry-After", len(refused) - hinted, 0, exact=True)
    yield Figure("refusals: p99", p99([a.seconds for a in refused]) * 1e3, 50, "ms")
    yield Figure("served: p99", p99([a.seconds for a in served]) * 1e3, deadline * 1e3, "ms")
    growth = (max(resident) / resident[len(resident) // 6] - 1) * 100
    yield Figure("memory: growth after the first 5 s", growth, 10, "%")
    failed = sum(answer.status != 200 for answer in settled)
    yield Figure("5 s later: answers other than 200", failed, 0, exact=True)
    yield Figure("5 s later: p99 as a multiple of before", again / normal, 1.5)
