"""A Redis that is stopped, silent, paused or emptied, and callers who should not notice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from tests.drills.faults.drive import Answer, Request, leave_after, offer, run
from tests.drills.faults.figures import Figure, p99
from tests.drills.faults.lists import COMPANY
from tests.drills.faults.stage import Row, Stage, predict
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.serving import Service, strict, wait_until
from tests.support.vocabularies import publish_now, publish_to

RATE, OUTAGE, LONG_OUTAGE = 50, 30.0, 60.0
CALM = 3.0
"""Seconds of load before the harm is done, and after all is well again."""
PAUSE = 10.0
ROWS = 10
BACK = 5.0
LOG_LINES = 40

Harm = Callable[[RedisServer], None]
Repair = Callable[[RedisServer, Path], Awaitable[None]]


class Outage(NamedTuple):
    """A way in which Redis fails, the time that it lasts, and the way back."""

    harm: Harm
    seconds: float
    repair: Repair


async def start_again(server: RedisServer, bundle: Path) -> None:
    """Bring a stopped server back, which has forgotten everything."""
    await asyncio.to_thread(server.start)
    await publish_to(server.url, bundle)


async def thaw(server: RedisServer, _: Path) -> None:
    """Let a silent server go on."""
    server.thaw()


async def nothing(_: RedisServer, __: Path) -> None:
    """It comes back by itself."""


async def publish_again(server: RedisServer, bundle: Path) -> None:
    """Fill an emptied server."""
    await publish_to(server.url, bundle)


def pause(server: RedisServer) -> None:
    """Let a server hold back its answers for ten seconds."""
    server.command("CLIENT", "PAUSE", round(PAUSE * 1e3), "ALL")


def empty(server: RedisServer) -> None:
    """Let a server forget everything."""
    server.command("FLUSHALL")


STOPPED = Outage(RedisServer.stop, LONG_OUTAGE, start_again)
SILENT = Outage(RedisServer.freeze, OUTAGE, thaw)
PAUSED = Outage(pause, PAUSE, nothing)
EMPTIED = Outage(empty, OUTAGE, publish_again)


class Seen(NamedTuple):
    """Answers in the order of the time, with the row that each was asked for."""

    answers: list[tuple[int, Answer]]
    live: list[float]
    back: float


async def spread(
    service: Service, requests: Sequence[Request], rate: float, seconds: float
) -> list[tuple[int, Answer]]:
    """Offer all requests at a rate together, evenly mixed; answers with the request's number."""
    share = rate / len(requests)
    waves = []
    for request in requests:
        waves.append(asyncio.create_task(offer(service.port, request, share, seconds)))
        await asyncio.sleep(1 / rate)
    found = await asyncio.gather(*waves)
    return [(number, answer) for number, wave in enumerate(found) for answer in wave]


async def look(service: Service, path: str) -> float:
    """Ask for a page and say how long it took."""
    start = perf_counter()
    await asyncio.to_thread(service.client.get, path)
    return perf_counter() - start


async def live_times(service: Service) -> list[float]:
    """Ask for /live twice a second until cancelled."""
    times: list[float] = []
    try:
        while True:
            times.append(await look(service, "/live"))
            await asyncio.sleep(0.5)
    except asyncio.CancelledError:
        return times


async def seconds_until_normal(service: Service) -> float:
    """Wait until /ready names nothing degraded; return the seconds."""
    start = perf_counter()

    def normal() -> bool:
        return not strict(service.client.get("/ready").content)["degraded"]

    await asyncio.to_thread(wait_until, normal, "nothing is degraded any more", 60)
    return perf_counter() - start


async def scene(
    service: Service,
    server: RedisServer,
    bundle: Path,
    requests: Sequence[Request],
    outage: Outage,
) -> Seen:
    """Load before, throughout and after an outage."""
    answers = await spread(service, requests, RATE, CALM)
    watching = asyncio.create_task(live_times(service))
    load = asyncio.create_task(spread(service, requests, RATE, outage.seconds))
    await asyncio.to_thread(outage.harm, server)
    answers += await load
    watching.cancel()
    live = await watching
    await outage.repair(server, bundle)
    back = await seconds_until_normal(service)
    answers += await spread(service, requests, RATE, CALM)
    return Seen(answers, live, back)


@contextmanager
def redis_with(stage: Stage) -> Iterator[RedisServer]:
    """A Redis that holds the stage's vocabulary."""
    with RedisServer() as server:
        publish_now(server.url, stage.bundle)
        yield server


def scores_of(stage: Stage, rows: Sequence[Row], bundle: Path | None = None) -> list[list[float]]:
    """Return the scores of rows by a service that has its vocabulary in memory."""
    with stage.service(bundle=bundle) as service:
        return [service.predict([row]) for row in rows]


def wrong(answers: Sequence[tuple[int, Answer]], expected: Sequence[list[float]]) -> int:
    """The number of answers whose scores are not those of their own row."""
    return sum(
        differ(strict(answer.content)["predictions"], expected[number])
        for number, answer in answers
        if answer.status == 200
    )


def differ(found: Sequence[float], expected: Sequence[float]) -> bool:
    """Return whether scores differ by more than other company in their batch explains."""
    return any(abs(one - two) > COMPANY for one, two in zip(found, expected, strict=True))


def play(stage: Stage, outage: Outage) -> Iterator[Figure]:
    """An outage, with the bundle's own copy in reserve and nothing remembered."""
    rows = stage.rows[:ROWS]
    requests = [predict(row) for row in rows]
    expected = scores_of(stage, rows)
    with redis_with(stage) as server:
        # With room for one value every request has something to ask Redis for.
        settings = {"redis_url": server.url, "vocabulary_cache": 1}
        with stage.service(**settings) as service:
            seen = run(scene(service, server, stage.bundle, requests, outage))
            metrics = service.metrics()
        lines = [each for each in service.events() if each["logger"].startswith("app")]
    seconds = [answer.seconds for _, answer in seen.answers]
    failed = sum(answer.status != 200 for _, answer in seen.answers)
    errors = sum(v for name, v in metrics.items() if name.startswith("ctr_redis_errors_total"))
    stood_in = metrics['ctr_vocabulary_fallbacks_total{fallback="snapshot"}']
    assert stood_in > RATE * outage.seconds / 2, f"{stood_in:g} look-ups met the outage: too few"
    yield Figure("wrong scores", wrong(seen.answers, expected), 0, exact=True)
    yield Figure("answers other than 200", failed, 0, exact=True)
    yield Figure("answers: p99", p99(seconds) * 1e3, 300, "ms")
    yield Figure("answers: longest", max(seconds) * 1e3, 1_000, "ms")
    yield Figure("/live: longest", max(seen.live) * 1e3, 300, "ms")
    yield Figure("back to normal", seen.back, BACK, "s")
    yield Figure("failures of Redis noticed", errors / outage.seconds, 5, "/s")
    yield Figure("lines in the log", len(lines), LOG_LINES, exact=True)


def redis_stopped(stage: Stage) -> Iterator[Figure]:
    """Connection refused for a minute."""
    return play(stage, STOPPED)


def redis_silent(stage: Stage) -> Iterator[Figure]:
    """Connections accepted and nothing answered for 30 s."""
    return play(stage, SILENT)


def redis_paused(stage: Stage) -> Iterator[Figure]:
    """Answers held back for 10 s."""
    return play(stage, PAUSED)


def redis_emptied(stage: Stage) -> Iterator[Figure]:
    """Everything forgotten, and published again 30 s later."""
    return play(stage, EMPTIED)


def redis_departed(stage: Stage) -> Iterator[Figure]:
    """200 callers leave while Redis, 100 ms away, is asked for theirs; 500 others stay."""
    users = [{**stage.rows[0], "user_id": row["user_id"]} for row in stage.rows if "user_id" in row]
    distinct = list({row["user_id"]: row for row in users}.values())[:4]
    expected = scores_of(stage, distinct)
    rng = random.Random(11)

    async def drive(service: Service) -> list[tuple[int, Answer]]:
        leaving = [
            leave_after(service.port, predict(distinct[0]), rng.uniform(0.02, 0.08))
            for _ in range(200)
        ]
        staying = spread(service, [predict(row) for row in distinct[1:]], 50, 10)
        _, answers = await asyncio.gather(paced(leaving), staying)
        return [(number + 1, answer) for number, answer in answers]

    async def paced(coming: Sequence[Awaitable[Answer]]) -> Counter[int]:
        found = []
        for each in coming:
            found.append(asyncio.ensure_future(each))
            await asyncio.sleep(10 / len(coming))
        return Counter(answer.status for answer in await asyncio.gather(*found))

    with redis_with(stage) as server, Proxy(server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        settings = {"redis_url": url, "redis_timeout_ms": 5_000, "vocabulary_cache": 1,
                    "vocabulary_fallback": "reject", "deadline_ms": 10_000}  # fmt: skip
        with stage.service(**settings) as service:
            proxy.delay = 0.1
            answers = run(drive(service))
            after = [service.predict([row]) for row in distinct]
    yield Figure("callers who stayed", len(answers))
    yield Figure("wrong scores", wrong(answers, expected), 0, exact=True)
    failed = sum(answer.status != 200 for _, answer in answers)
    yield Figure("answers other than 200", failed, 0, exact=True)
    different = sum(differ(found, wanted) for found, wanted in zip(after, expected, strict=True))
    yield Figure("wrong scores afterwards", different, 0, exact=True)


def redis_versions(stage: Stage) -> Iterator[Figure]:
    """Two versions on one Redis for a minute, then the first one once more."""
    rows = stage.rows[:ROWS]
    requests = [predict(row) for row in rows]
    expected = [scores_of(stage, rows), scores_of(stage, rows, stage.other)]
    with redis_with(stage) as server, ExitStack() as stack:
        publish_now(server.url, stage.other)
        settings = {"redis_url": server.url, "vocabulary_cache": 20}
        services = [
            stack.enter_context(stage.service(bundle=bundle, **settings))
            for bundle in (stage.bundle, stage.other)
        ]

        async def side_by_side() -> list[list[tuple[int, Answer]]]:
            return await asyncio.gather(
                *(spread(service, requests, RATE / 2, LONG_OUTAGE) for service in services)
            )

        found = run(side_by_side())
        with stage.service(**settings) as service:
            again = [service.predict([row]) for row in rows]
    for number, answers in enumerate(found, 1):
        name = f"version {number}: "
        yield Figure(f"{name}answers", len(answers))
        failed = sum(answer.status != 200 for _, answer in answers)
        yield Figure(f"{name}answers other than 200", failed, 0, exact=True)
        yield Figure(f"{name}wrong scores", wrong(answers, expected[number - 1]), 0, exact=True)
    alike = sum(not differ(*both) for both in zip(*expected, strict=True))
    yield Figure("rows that the versions score alike", alike, 0, exact=True)
    back = sum(differ(*both) for both in zip(again, expected[0], strict=True))
    yield Figure("back to version 1: wrong scores", back, 0, exact=True)


SCENARIOS = {
    "redis-stopped": redis_stopped,
    "redis-silent": redis_silent,
    "redis-paused": redis_paused,
    "redis-emptied": redis_emptied,
    "redis-departed": redis_departed,
    "redis-versions": redis_versions,
}
"""Scenarios of ``scripts/test-faults``, by name."""
