"""Services behind nginx and haproxy: what back-pressure and restarts cost those who ask."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from tests.drills.faults.drive import Request, ask, run
from tests.drills.faults.figures import Figure, Skipped
from tests.drills.faults.slow_service import SLOW, VARIABLE
from tests.drills.faults.stage import Stage, predict, rank
from tests.support.programs import installed
from tests.support.proxies import haproxy, nginx
from tests.support.serving import Service, Wire, wait_until

CALLERS, SECONDS = 16, 8.0
EXPECTED = (200, 429)
CANDIDATES, RUN_MS, QUEUE_ROWS = 2_500, 20, 5_000
RESTARTS, DIRECT_CALLERS = 6, 20
LAME_DUCK_SECONDS = 2.0
BACK_SECONDS = 30.0
"""Longest until a proxy asks a restarted instance again: nginx leaves out for 10 s one that refused
a connection."""
PAUSE_SECONDS = 0.05
"""Time that a caller waits after a refusal."""
LOST = "connections cut before an answer"
DEADLINE_MS = 20_000
"""Longer than a busy machine stands still: what a request waits for here is no fault."""
SHOWN_CHARACTERS = 200
"""The beginning of an answer that should not be, for the one who reads the figures."""


async def keep_asking(
    ports: Sequence[int], request: Request, end: asyncio.Event, seen: Counter[str]
) -> None:
    """Ask again and again on a kept connection to one of the ports; another one where it refuses.

    A connection that says it ends, or has ended, is replaced: that is no loss. A request that was
    sent and has no whole answer is.
    """
    wire: Wire | None = None
    place = 0
    while not end.is_set():
        if wire is None or not wire.usable:
            try:
                wire = await Wire.open(ports[place % len(ports)])
            except OSError:
                place += 1
                await asyncio.sleep(PAUSE_SECONDS)
                continue
        try:
            answer = await ask(wire, request)
        except (asyncio.IncompleteReadError, ConnectionError):
            seen[LOST] += 1
            wire = None
            continue
        expected = answer.status in EXPECTED
        seen[str(answer.status) if expected else _told(answer.status, answer.content)] += 1
        if "\r\nconnection: close" in wire.head:
            await wire.close()
            wire = None
        if answer.status != 200:
            await asyncio.sleep(PAUSE_SECONDS)
    if wire is not None:
        await wire.close()


def _told(status: int, content: bytes) -> str:
    return f"{status} {content[:SHOWN_CHARACTERS].decode(errors='replace')}"


def asked_for(seconds: float, ports: Sequence[int], request: Request, callers: int) -> Counter[str]:
    """Ask for some seconds; return the counts of what callers see."""

    async def scene() -> Counter[str]:
        seen: Counter[str] = Counter()
        end = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, end.set)
        await asyncio.gather(*(keep_asking(ports, request, end, seen) for _ in range(callers)))
        return seen

    return run(scene())


def shown(name: str, seen: Counter[str], answers: Sequence[str]) -> Iterator[Figure]:
    """The counts of the statuses that may be, and of all others, which may not."""
    for status in answers:
        yield Figure(f"{name}: answers {status}", seen[status])
    others = {each: count for each, count in seen.items() if each not in (*answers, LOST)}
    told = f": {', '.join(others)}" if others else ""
    yield Figure(f"{name}: other answers{told}", sum(others.values()), 0, exact=True)
    yield Figure(f"{name}: {LOST}", seen[LOST], 0, exact=True)


def proxies(stage: Stage) -> Iterator[Figure | Skipped]:
    """Back-pressure, then rolling restarts, behind each proxy and without one."""
    absent = [each for each in ("nginx", "haproxy") if not installed(each)]
    if absent:
        yield Skipped(f"{' and '.join(absent)} not installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        yield from back_pressure(stage, Path(folder))
        yield from rolling_restarts(stage, Path(folder))


def back_pressure(stage: Stage, folder: Path) -> Iterator[Figure]:
    """16 callers with lists of 216 KiB before two instances with small queues: 200 or 429."""
    request = rank(stage.rows[0], (stage.rows * 10)[:CANDIDATES])
    settings = {"max_queue_rows": QUEUE_ROWS, "deadline_ms": DEADLINE_MS}
    with ExitStack() as stack:
        services = [
            stack.enter_context(stage.service(SLOW, {VARIABLE: str(RUN_MS)}, **settings))
            for _ in range(2)
        ]
        ports = [service.port for service in services]
        fronts: dict[str, AbstractContextManager[int]] = {
            "nginx by default": nginx(folder / "nginx", ports),
            "nginx with a pool": nginx(folder / "pooled", ports, pooled=True),
            "haproxy": haproxy(folder / "haproxy", ports),
        }
        for name, front in fronts.items():
            with front as port:
                seen = asked_for(SECONDS, [port], request, CALLERS)
            yield from shown(f"overload behind {name}", seen, ["200", "429"])
        seen = asked_for(SECONDS, ports, request, CALLERS)
        yield from shown("overload without a proxy", seen, ["200", "429"])


def rolling_restarts(stage: Stage, folder: Path) -> Iterator[Figure]:
    """Two instances, restarted one after the other, six times in all."""
    fronts = {
        "nginx with a pool": lambda ports: nginx(folder / "restarts-nginx", ports, pooled=True),
        "haproxy": lambda ports: haproxy(folder / "restarts-haproxy", ports),
        "20 direct callers": None,
    }
    for name, front in fronts.items():
        with Pair(stage) as pair, ExitStack() as stack:
            ports = [stack.enter_context(front(pair.ports))] if front else pair.ports
            seen = _restarted(pair, ports, predict(stage.rows[0]), behind=front is not None)
        yield from shown(f"six restarts, {name}", seen, ["200"])


def _restarted(pair: Pair, ports: Sequence[int], request: Request, behind: bool) -> Counter[str]:
    """Restart instances; return the counts of what callers, in a thread, see meanwhile.

    ``behind`` a proxy, an instance is restarted when the other one is asked again. Direct callers
    ask whichever is there.
    """
    seen: Counter[str] = Counter()
    over = threading.Event()

    async def scene() -> None:
        end = asyncio.Event()
        callers = [
            asyncio.create_task(keep_asking(ports, request, end, seen))
            for _ in range(DIRECT_CALLERS)
        ]
        await asyncio.to_thread(over.wait)
        end.set()
        await asyncio.gather(*callers)

    asking = threading.Thread(target=lambda: run(scene()))
    asking.start()
    try:
        wait_until(lambda: seen["200"] > DIRECT_CALLERS, "callers are answered", BACK_SECONDS)
        for number in range(RESTARTS):
            pair.restart(number % 2)
            if behind:
                pair.wait_asked(number % 2)
    finally:
        over.set()
        asking.join()
    return seen


class Pair:
    """Two instances, each of which can be restarted on its port."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._running: list[AbstractContextManager[Service]] = []
        self.services: list[Service] = []

    def _start(self, port: int | None) -> tuple[AbstractContextManager[Service], Service]:
        settings: dict[str, object] = {
            "lame_duck_seconds": LAME_DUCK_SECONDS,
            "deadline_ms": DEADLINE_MS,
        }
        running = self._stage.service(port=port, **settings)
        return running, running.__enter__()

    def __enter__(self) -> Pair:
        for _ in range(2):
            running, service = self._start(None)
            self._running.append(running)
            self.services.append(service)
        return self

    @property
    def ports(self) -> list[int]:
        return [service.port for service in self.services]

    def restart(self, number: int) -> None:
        """Stop an instance, which must end with 0, and start it again on its port."""
        port = self.services[number].port
        self._running[number].__exit__(None, None, None)
        time.sleep(0.5)
        self._running[number], self.services[number] = self._start(port)

    def wait_asked(self, number: int) -> None:
        """Wait until callers' requests reach an instance.

        Some reach it while nginx still leaves it out: each caller may have been connecting when
        the one before ended.
        """
        service = self.services[number]

        def asked() -> bool:
            answered = service.metrics()['ctr_requests_total{outcome="200",route="predict"}']
            return answered > 2 * DIRECT_CALLERS

        wait_until(asked, "the restarted instance is asked again", BACK_SECONDS)

    def __exit__(self, *_: object) -> None:
        for running in self._running:
            running.__exit__(None, None, None)
