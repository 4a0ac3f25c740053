"""Bundles that take each other's place under load, and callers who should not notice."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from app.bundle.directory import CURRENT
from tests.drills.faults.drive import Answer, ask_in_turn, offer, run
from tests.drills.faults.figures import Figure, p99
from tests.drills.faults.lists import COMPANY
from tests.drills.faults.stage import Stage, predict
from tests.support.serving import Service, strict, wait_until

SWAPS, FIRST = 20, 2
RATE = 300
"""Requests a second: about half of what this driver and a service can do on one busy core."""
STEADY, SWAPPING, BETWEEN = 10.0, 30.0, 0.5
DEADLINE_MS = 500
RETIRED = DEADLINE_MS / 1000 + 2
"""Seconds after a swap when the bundle before is gone for good."""


def swaps(stage: Stage) -> Iterator[Figure]:
    """Twenty swaps under load: nothing fails, nothing is mixed, nothing stays behind."""
    request = predict(stage.rows[0])
    bundles = (stage.bundle, stage.other)
    expected = {}
    for bundle in bundles:
        with stage.service(bundle=bundle) as service:
            expected[bundle.name] = service.predict(stage.rows[:1])[0]

    async def to(service: Service, directory: Path, version: str) -> None:
        (directory / ".next").write_text(version)
        (directory / ".next").replace(directory / CURRENT)

        def serves() -> bool:
            return bool(strict(service.client.get("/ready").content)["version"] == version)

        await asyncio.to_thread(wait_until, serves, f"{version} serves", 60)

    async def scene(service: Service, directory: Path) -> tuple[list[Answer], list[Answer]]:
        await ask_in_turn(service.port, [request] * 2_000, 32)
        steady = await offer(service.port, request, RATE, STEADY)
        loading = asyncio.create_task(offer(service.port, request, RATE, SWAPPING))
        versions = [bundle.name for bundle in bundles[::-1] * SWAPS]
        for number, version in enumerate(islice(versions, SWAPS), 1):
            await to(service, directory, version)
            await asyncio.sleep(RETIRED if number in (FIRST, SWAPS) else BETWEEN)
            if number in (FIRST, SWAPS):
                resident.append(service.resident_bytes())
        return steady, await loading

    resident: list[int] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for bundle in bundles:
            shutil.copytree(bundle, directory / bundle.name)
        (directory / CURRENT).write_text(stage.bundle.name)
        settings = {"bundle_poll_seconds": 0.1, "deadline_ms": DEADLINE_MS}
        with stage.service(bundle=directory, **settings) as service:
            steady, swapping = run(scene(service, directory))
    answers = [strict(answer.content) for answer in swapping if answer.status == 200]
    wrong = sum(
        abs(each["predictions"][0] - expected[each["version"]]) > COMPANY for each in answers
    )
    yield Figure("requests", len(swapping))
    yield Figure("answers other than 200", len(swapping) - len(answers), 0, exact=True)
    yield Figure("scores of another version than named", wrong, 0, exact=True)
    yield Figure("versions seen", len({each["version"] for each in answers}))
    calm, busy = (p99([answer.seconds for answer in part]) for part in (steady, swapping))
    yield Figure("p99 without swaps", calm * 1e3, unit="ms")
    yield Figure("p99 with swaps, as a multiple", busy / calm, 2)
    growth = (resident[1] / resident[0] - 1) * 100
    yield Figure(f"memory: growth from swap {FIRST} to swap {SWAPS}", growth, 10, "%")
