"""Long lists, lists in which everything is wrong, and rows in the company of others."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from app.scoring.engine import CPU, TOLERANCE
from tests.bench.serving.shape import CONTEXT_FIELDS, Draws, field_name, make
from tests.drills.faults.drive import (
    Answer,
    Request,
    ask,
    ask_at_once,
    ask_in_turn,
    close,
    offer,
    opened,
    run,
)
from tests.drills.faults.figures import Figure, p99
from tests.drills.faults.stage import Row, Stage, predict, rank
from tests.support.samples import context_of
from tests.support.serving import ROOT, Service, Wire, logits, strict

COMPANY = 1e-6
"""Largest difference of a score between a row alone and the same row in a batch."""
ROUNDS = 20


def scores_of(answer: Answer) -> list[float]:
    """The scores of a /predict or /rank answer, in the request's order."""
    assert answer.status == 200, answer.content[:500]
    body = strict(answer.content)
    if "predictions" in body:
        return list(body["predictions"])
    return [place["score"] for place in sorted(body["ranking"], key=lambda place: place["index"])]


def farthest(found: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> float:
    """The largest difference between scores; infinite where one is missing or too much."""
    worst = 0.0
    for these, those in zip(found, expected, strict=True):
        if len(these) != len(those):
            return float("inf")
        worst = max(worst, float(np.abs(np.subtract(these, those)).max(initial=0.0)))
    return worst


def long_lists(stage: Stage) -> Iterator[Figure]:
    """40 lists of 100 candidates beside 40 single rows, at most 64 rows a run."""
    rng = random.Random(2)
    singles = [predict(row) for row in stage.rows[:40]]
    lists = [rank(rng.choice(stage.rows), rng.sample(stage.rows, 100)) for _ in range(40)]

    async def scene(port: int) -> tuple[list[Answer], list[list[Answer]], list[list[Answer]]]:
        solo = await ask_in_turn(port, singles + lists, 1)
        wires = await opened(port, 80)
        without, beside = [], []
        for _ in range(ROUNDS):
            without.append(await ask_at_once(wires[:40], singles))
            beside.append(await ask_at_once(wires, singles + lists))
        await close(wires)
        return solo, without, beside

    with stage.service(max_batch_rows=64) as service:
        solo, without, beside = run(scene(service.port))
        found = service.metrics()
    expected = [scores_of(answer) for answer in solo]
    wrong = max(farthest([scores_of(a) for a in answers], expected) for answers in beside)
    alone, under = (
        p99([answer.seconds for answers in rounds for answer in answers[:40]])
        for rounds in (without, beside)
    )
    larger = found["ctr_batch_rows_count"] - found['ctr_batch_rows_bucket{le="64"}']
    yield Figure("runs of more than 64 rows", larger, 0, exact=True)
    yield Figure("largest difference from solo scores", wrong, COMPANY, exact=True)
    yield Figure("40 single rows: p99", alone * 1e3, unit="ms")
    yield Figure("beside 40 lists: p99", under * 1e3, unit="ms")
    yield Figure("beside 40 lists: p99 as a multiple", under / alone, 2)


def wrong_lists(stage: Stage) -> Iterator[Figure]:
    """A list of 2,000 candidates with four wrong fields each costs nobody but its sender."""
    filler = "f" * 200
    features = {"item_id": "x", "tags": "x", "price": "x", "quality": "x", "note": filler}
    body = {
        "context": context_of(stage.rows[0]),
        "candidates": [{"features": features}] * 2_000,
    }
    request = Request("/rank", json.dumps(body).encode())
    single = predict(stage.rows[0])

    async def scene(port: int) -> tuple[list[Answer], list[Answer], list[Answer]]:
        without = await offer(port, single, 200, 5)
        wire = await Wire.open(port)
        stream = asyncio.create_task(offer(port, single, 200, 5))
        wrong = []
        while not stream.done():
            wrong.append(await ask(wire, request))
            await asyncio.sleep(0.05)
        await wire.close()
        return without, await stream, wrong

    with stage.service() as service:
        without, beside, wrong = run(scene(service.port))
    errors = [strict(answer.content)["error"] for answer in wrong]
    yield Figure("answers other than 422", sum(a.status != 422 for a in wrong), 0, exact=True)
    yield Figure("largest answer", max(len(a.content) for a in wrong), 16 * 1024, "B", exact=True)
    off = sum(error["total"] != 8_000 for error in errors)
    yield Figure("wrong totals of problems", off, 0, exact=True)
    echoes = sum(filler[:20].encode() in answer.content for answer in wrong)
    yield Figure("answers that echo a value", echoes, 0, exact=True)
    yield Figure("p99 of the answers", p99([a.seconds for a in wrong]) * 1e3, 200, "ms")
    lost = sum(answer.status != 200 for answer in without + beside)
    yield Figure("single rows beside them: answers other than 200", lost, 0, exact=True)
    alone, under = (p99([answer.seconds for answer in part]) for part in (without, beside))
    yield Figure("single rows alone: p99", alone * 1e3, unit="ms")
    yield Figure("single rows beside them: p99", under * 1e3, 20, "ms")


def company(stage: Stage) -> Iterator[Figure]:
    """500 rows of a large network score alone as at every position of batches, and rank so."""
    bundle, _ = make(ROOT / "data" / "criteo-shape")
    rows = drawn_rows(500)
    texts = [json.dumps(row) for row in rows]

    def asked(numbers: Sequence[int]) -> Request:
        instances = ",".join(texts[number] for number in numbers)
        return Request("/predict", f'{{"instances":[{instances}]}}'.encode())

    alone_order = [[number] for number in range(len(rows))]
    batches = [part for size in (2, 3, 4, 8, 33, 64) for part in every_position(len(rows), size)]

    async def scene(port: int) -> tuple[list[Answer], list[Answer], list[list[Answer]]]:
        alone = await ask_in_turn(port, map(asked, alone_order), 1)
        together = await ask_in_turn(port, map(asked, batches), 1)
        wires = await opened(port, 64)
        at_once = [
            await ask_at_once(wires, [asked([n]) for n in range(start, start + 64)])
            for start in range(0, 400, 20)
        ]
        await close(wires)
        return alone, together, at_once

    with stage.service(bundle=bundle) as service:
        alone, together, at_once = run(scene(service.port))
        moved = moved_places(service, rows)
    solo = [scores_of(answer)[0] for answer in alone]
    expected = [[solo[n] for n in part] for part in batches]
    found = [scores_of(answer) for answer in together]
    for start, answers in zip(range(0, 400, 20), at_once, strict=True):
        expected += [[solo[n]] for n in range(start, start + 64)]
        found += [scores_of(answer) for answer in answers]
    yield Figure("largest difference of a score", farthest(found, expected), COMPANY, exact=True)
    found, expected = ([logits(scores) for scores in part] for part in (found, expected))
    yield Figure(
        "largest difference of a logit", farthest(found, expected), TOLERANCE[CPU], exact=True
    )
    yield Figure("places of a list that other traffic moved", moved, 0, exact=True)


def drawn_rows(count: int) -> list[Row]:
    """Rows of the large bundle."""
    draws = Draws(3)
    columns = draws.columns(True, count) | draws.columns(False, count)
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def every_position(rows: int, size: int) -> list[list[int]]:
    """Batches of one size that hold each row once at each position, in random company."""
    order = random.Random(size).sample(range(rows), rows)
    return [[order[(start + place) % rows] for place in range(size)] for start in range(rows)]


def moved_places(service: Service, rows: Sequence[Row]) -> int:
    """Rank a list alone and under traffic; count neighbours that changed places by right."""
    context = {field_name(field): rows[0][field_name(field)] for field in range(CONTEXT_FIELDS)}
    body = {
        "context": context,
        "candidates": [
            {"features": {name: value for name, value in row.items() if name not in context}}
            for row in rows[:300]
        ],
    }
    quiet = {place["index"]: place["score"] for place in service.rank(**body)}
    by_index = dict(zip(quiet, logits(list(quiet.values())), strict=True))
    with ThreadPoolExecutor(4) as threads:
        traffic = [threads.submit(service.predict, rows[i : i + 40]) for i in range(0, 400, 4)]
        loud = [service.rank(**body) for _ in range(20)]
        for future in traffic:
            future.result()
    moved = 0
    for ranking in loud:
        order = [by_index[place["index"]] for place in ranking]
        moved += sum(a < b - TOLERANCE[CPU] for a, b in pairwise(order))
    return moved
