"""More callers than there is room for, callers who leave, and long lists beside short ones."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.drills.faults.slow_service import SLOW, VARIABLE
from tests.support.held_service import Held
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, Wire, strict, wait_until

pytestmark = pytest.mark.e2e

COMPANY = 1e-6
"""Published bound of a score's difference between a row alone and the same row in a batch."""
Answers = list[tuple[int, bytes]]


@pytest.fixture(scope="module")
def slow(start_shared_service: StartService) -> Service:
    """A service whose runs take 20 ms for at most 4 rows, and whose queue holds 50."""
    return start_shared_service(
        program=SLOW, env={VARIABLE: "20"}, max_batch_rows=4, max_queue_rows=50, deadline_ms=30_000
    )


def body_of(row: dict[str, Any]) -> bytes:
    """A /predict body of one row."""
    return json.dumps({"instances": [row]}).encode()


def score_of(answer: tuple[int, bytes]) -> float:
    """The one score of a /predict answer."""
    status, content = answer
    assert status == 200, content
    (score,) = strict(content)["predictions"]
    return float(score)


async def close(wires: list[Wire]) -> None:
    for wire in wires:
        await wire.close()


async def ask_at_once(service: Service, path: str, bodies: list[bytes]) -> Answers:
    """Send each body on a connection of its own, all at once."""
    wires = [await Wire.open(service.port) for _ in bodies]
    answers = await asyncio.gather(
        *(wire.post(path, body) for wire, body in zip(wires, bodies, strict=True))
    )
    await close(wires)
    return answers


def errors(service: Service) -> list[Any]:
    """Return what a service has logged as errors."""
    return [event for event in service.events() if event["level"] == "error"]


def test_callers_who_give_up_harm_nobody(slow: Service, sample: Sample) -> None:
    """After many callers who left within 20 ms, others get their scores and nothing is left."""
    rng = random.Random(1)
    rows = sample.rows[:40]
    bodies = [body_of(row) for row in rows]
    expected = slow.predict(rows)

    async def hasty(body: bytes, patience: float) -> bool:
        wire = await Wire.open(slow.port)
        try:
            async with asyncio.timeout(patience):
                await wire.post("/predict", body)
        except TimeoutError:
            return False
        finally:
            await wire.close()
        return True

    async def crowd() -> list[bool]:
        return await asyncio.gather(
            *(hasty(rng.choice(bodies), rng.uniform(0.001, 0.02)) for _ in range(100))
        )

    assert asyncio.run(crowd()).count(False) > 50, "few gave up: the test would prove little"
    wait_until(lambda: slow.metrics()["ctr_queued_rows"] == 0, "nothing is left in the queue")
    found = [score_of(answer) for answer in asyncio.run(ask_at_once(slow, "/predict", bodies))]
    assert found == pytest.approx(expected, abs=COMPANY)
    assert slow.metrics()["ctr_queued_rows"] == 0
    assert not errors(slow)


def test_overload_is_refused_and_forgotten(slow: Service, sample: Sample) -> None:
    """Of far more requests than there is room for, some are served and the rest get 429."""
    bodies = [body_of(row) for row in sample.rows[:40]] * 10
    expected = slow.predict(sample.rows[:40]) * 10

    async def flood() -> tuple[Answers, list[str]]:
        wires = [await Wire.open(slow.port) for _ in bodies]
        for wire, body in zip(wires, bodies, strict=True):
            wire.send("/predict", body)
        answers = await asyncio.gather(*(wire.answer() for wire in wires))
        await close(wires)
        return answers, [wire.head for wire in wires]

    answers, heads = asyncio.run(flood())
    statuses = Counter(status for status, _ in answers)
    assert set(statuses) == {200, 429}, statuses
    for answer, head, score in zip(answers, heads, expected, strict=True):
        if answer[0] == 200:
            assert score_of(answer) == pytest.approx(score, abs=COMPANY)
        else:
            assert strict(answer[1])["error"]["code"] == "overloaded"
            assert int(head.split("retry-after: ")[1].split("\r\n")[0]) >= 1
    assert slow.metrics()["ctr_queued_rows"] == 0
    assert slow.predict(sample.rows[:1]) == pytest.approx(expected[:1], abs=COMPANY)
    assert not errors(slow)


def test_long_lists_beside_short_requests(start_service: StartService, sample: Sample) -> None:
    """40 lists of 100 beside 40 rows: no run is over its limit, all answers are as alone."""
    service = start_service(max_batch_rows=64, deadline_ms=30_000)
    rng = random.Random(2)
    lists = [
        {"context": context_of(rng.choice(sample.rows)),
         "candidates": [{"features": candidate_of(row)} for row in rng.sample(sample.rows, 100)]}
        for _ in range(40)
    ]  # fmt: skip
    alone = [service.rank(**body) for body in lists]
    expected = service.predict(sample.rows[:40])
    before = service.metrics()["ctr_rows_total"]

    async def together() -> tuple[Answers, Answers]:
        ranked, scored = await asyncio.gather(
            ask_at_once(service, "/rank", [json.dumps(body).encode() for body in lists]),
            ask_at_once(service, "/predict", [body_of(row) for row in sample.rows[:40]]),
        )
        return ranked, scored

    ranked, scored = asyncio.run(together())
    assert [score_of(answer) for answer in scored] == pytest.approx(expected, abs=COMPANY)
    for (status, content), ranking in zip(ranked, alone, strict=True):
        assert status == 200, content
        found = {place["index"]: place["score"] for place in strict(content)["ranking"]}
        assert found == pytest.approx({p["index"]: p["score"] for p in ranking}, abs=COMPANY)
    metrics = service.metrics()
    assert metrics["ctr_rows_total"] - before == 40 * 101
    assert metrics['ctr_batch_rows_bucket{le="64"}'] == metrics["ctr_batch_rows_count"]


def test_departed_callers_wait_for_nothing(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """Callers who leave a queue cost no run, and are counted apart; those who stay are served."""
    held = Held(start_service, tmp_path, max_batch_rows=4)
    service = held.service
    bodies = [body_of(row) for row in sample.rows[:100]]

    def queued() -> float:
        return service.metrics()["ctr_queued_rows"]

    async def scene() -> Answers:
        held.hold()
        first = asyncio.create_task(ask_at_once(service, "/predict", bodies[:1]))
        await asyncio.to_thread(held.wait_held)
        others = asyncio.create_task(ask_at_once(service, "/predict", bodies[1:]))
        await asyncio.to_thread(wait_until, lambda: queued() == 99, "the queue is filled")
        leaving = [await Wire.open(service.port) for _ in range(50)]
        for wire in leaving:
            wire.send("/predict", bodies[0])
        await asyncio.to_thread(wait_until, lambda: queued() == 149, "they wait, too")
        before = held.descriptors()
        for wire in leaving:
            await wire.close()
        await asyncio.to_thread(
            wait_until, lambda: held.descriptors() <= before - 50, "their leaving is noticed"
        )
        held.release()
        return [*await first, *await others]

    assert [status for status, _ in asyncio.run(scene())] == [200] * 100
    wait_until(lambda: queued() == 0, "the queue is empty")
    found = service.metrics()
    outcomes = {
        outcome: found[f'ctr_requests_total{{outcome="{outcome}",route="predict"}}']
        for outcome in ("200", "500", "503", "504", "gone")
    }
    assert outcomes == {"200": 100, "500": 0, "503": 0, "504": 0, "gone": 50}
    assert found["ctr_rows_total"] == 100
