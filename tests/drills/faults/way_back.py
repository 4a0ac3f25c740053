"""The way back under faults: a disk without room, and workers that are killed while events come."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import httpx

from tests.drills.faults.drive import offer, run
from tests.drills.faults.figures import Figure
from tests.drills.faults.stage import Stage, predict
from tests.support.feedback import HEADERS, events_in, key_file, requests_in
from tests.support.serving import wait_until, workers_of

RATE, SECONDS = 300, 20.0
"""Requests a second, and how long they come; the disk has no room in the second quarter."""
NO_ROOM_BYTES = 500
HEAL_SECONDS = 35.0
KILLS, SENDERS, EVENTS_BETWEEN = 5, 8, 150


def full_disk(stage: Stage) -> Iterator[Figure]:
    """The disk of the request log is full for a while: no request notices."""
    request = predict(stage.rows[0])
    with (
        tempfile.TemporaryDirectory() as name,
        stage.service(
            expected="the request log cannot be written",
            request_log=Path(name) / "log",
            request_log_share=1,
        ) as service,
    ):
        pid = service.process.pid
        room = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        offered = SECONDS * RATE

        async def scene() -> list[int]:
            loading = asyncio.create_task(offer(service.port, request, RATE, SECONDS))
            await asyncio.sleep(SECONDS / 4)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (NO_ROOM_BYTES, room[1]))
            await asyncio.sleep(SECONDS / 4)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, room)
            return [answer.status for answer in await loading]

        statuses = run(scene())
        start = perf_counter()

        def heals() -> bool:
            service.predict(stage.rows[:1])
            return service.metrics()["ctr_request_log_up"] == 1

        wait_until(heals, "the log is written again", HEAL_SECONDS)
        healed = perf_counter() - start
        dropped = service.metrics()['ctr_request_log_dropped_total{reason="disk"}']
        queue = service.metrics()['ctr_request_log_dropped_total{reason="queue"}']
        answered = service.metrics()['ctr_requests_total{outcome="200",route="predict"}']
        service.stop()
        kept = len(requests_in(Path(name) / "log"))
    yield Figure("requests", offered)
    yield Figure("answers other than 200", sum(each != 200 for each in statuses), 0, exact=True)
    yield Figure("lines dropped while the disk took nothing, and until the next try", dropped)
    yield Figure("lines dropped because the queue was full", queue, 0, exact=True)
    yield Figure("lines neither in the log nor counted", answered - dropped - kept, 0, exact=True)
    yield Figure("from the last request until it is written again", healed, HEAL_SECONDS, "s")


def killed_feedback(stage: Stage) -> Iterator[Figure]:
    """Workers are killed again and again while events come: what was answered 202 is kept."""
    accepted: list[str] = []
    numbers = iter(range(10_000_000))
    unanswered = 0

    async def tell(client: httpx.AsyncClient, over: asyncio.Event) -> None:
        nonlocal unanswered
        while not over.is_set():
            names = [f"r-{next(numbers)}" for _ in range(5)]
            events = [{"request_id": name, "index": 0, "label": 1} for name in names]
            try:
                answer = await client.post("/feedback", json={"events": events})
            except httpx.HTTPError:
                unanswered += 1
                continue
            if answer.status_code == 202:
                accepted.extend(names)

    async def enough(events: int) -> None:
        while len(accepted) < events:  # noqa: ASYNC110 - whichever sender comes last
            await asyncio.sleep(0.01)

    async def scene(url: str, pids: Iterator[list[int]]) -> None:
        over = asyncio.Event()
        headers = {**HEADERS, "connection": "close"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
            telling = [asyncio.create_task(tell(client, over)) for _ in range(SENDERS)]
            for kill in range(1, KILLS + 1):
                await enough(kill * EVENTS_BETWEEN)
                for pid in next(pids):
                    os.kill(pid, signal.SIGKILL)
            await enough((KILLS + 1) * EVENTS_BETWEEN)
            over.set()
            await asyncio.gather(*telling)

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with stage.service(
            expected="ended by signal",
            feedback=directory / "events",
            feedback_key_file=key_file(directory),
            workers=2,
        ) as service:
            run(scene(service.url, iter(lambda: workers_of(service), None)))
        kept = Counter(each.event.request_id for each in events_in(directory / "events"))
    yield Figure("times that all workers were killed", KILLS)
    yield Figure("events answered 202", len(accepted))
    yield Figure("requests without an answer", unanswered)
    yield Figure("events answered 202 and lost", len(set(accepted) - kept.keys()), 0, exact=True)
    yield Figure("events kept twice", sum(each > 1 for each in kept.values()), 0, exact=True)
