"""One score: offline, alone, in any company, in any form, in any order of keys."""

from __future__ import annotations

import asyncio
import json
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from tests.conftest import Sample, StartService
from tests.support.samples import (
    CANDIDATE,
    CONTEXT,
    KNOWN_USER,
    LARGEST_USER,
    candidate_of,
    context_of,
)
from tests.support.serving import Service, Wire, logit, logits, strict

pytestmark = pytest.mark.e2e

TOLERANCE = 1e-4
"""Published bound of a logit's difference from the trainer's (float32 on CPU)."""
COMPANY = 1e-6
"""Published bound of a score's difference between a row alone and the same row in a batch."""
PARITY_ROWS = 1_000

Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows(sample: Sample) -> list[Row]:
    return sample.rows[:PARITY_ROWS]


@pytest.fixture(scope="module")
def offline(
    tiny_bundle: Path, sample: Sample, tmp_path_factory: pytest.TempPathFactory
) -> list[float]:
    """The logits that ``python -m model predict`` writes for the log's first lines."""
    from model.score_files import Offline

    out = tmp_path_factory.mktemp("offline") / "scores.parquet"
    Offline.open(tiny_bundle).predict([sample.data], out, 0.0)
    frame = pl.read_parquet(out).head(PARITY_ROWS)
    assert frame["line"].to_list() == list(range(2, PARITY_ROWS + 2))
    found: list[float] = frame["logit"].to_list()
    return found


def assert_near(found: list[float], expected: list[float], tolerance: float = TOLERANCE) -> None:
    """Fail by the first row that differs."""
    assert len(found) == len(expected)
    away = np.abs(np.array(found) - np.array(expected))
    assert away.max(initial=0.0) <= tolerance, f"row {away.argmax()} is {away.max():.3g} away"


def score_concurrently(service: Service, bodies: list[Any], path: str = "/predict") -> list[Any]:
    """Send all bodies at once; return status and answer of each, in the bodies' order."""

    async def run() -> list[Any]:
        limits = httpx.Limits(max_connections=len(bodies))
        async with httpx.AsyncClient(
            base_url=service.url, limits=limits, timeout=30, trust_env=False, verify=False
        ) as client:
            answers = await asyncio.gather(*(client.post(path, json=body) for body in bodies))
        return [(answer.status_code, answer.json()) for answer in answers]

    return asyncio.run(run())


def test_a_batch_scores_as_offline(service: Service, rows: list[Row], offline: list[float]) -> None:
    """1,000 raw rows score through /predict as the trainer scored them from the file."""
    assert np.ptp(offline) > 0.5, "the network has learnt nothing: the test would prove little"
    assert_near(logits(service.predict(rows)), offline)


def test_rows_alone_score_as_offline(
    service: Service, rows: list[Row], offline: list[float]
) -> None:
    """A row alone scores as offline, sent one after the other or all at once."""
    alone = [service.predict([row])[0] for row in rows[:300]]
    assert_near(logits(alone), offline[:300])

    with ThreadPoolExecutor(16) as threads:
        together = list(threads.map(lambda row: service.predict([row])[0], rows))
    assert_near(logits(together), offline)


def test_order_and_split_change_nothing(
    service: Service, rows: list[Row], offline: list[float]
) -> None:
    """Shuffled and cut into bodies of any size, every row keeps its score."""
    rng = random.Random(1)
    order = list(range(len(rows)))
    rng.shuffle(order)
    found = [0.0] * len(rows)
    while order:
        part, order = order[: (size := rng.randrange(1, 90))], order[size:]
        for number, score in zip(part, service.predict([rows[n] for n in part]), strict=True):
            found[number] = score
    assert_near(logits(found), offline)


def groups(rows: list[Row]) -> dict[str, list[int]]:
    """Row numbers by equal context."""
    found: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        found.setdefault(json.dumps(context_of(row), sort_keys=True), []).append(number)
    return found


def test_rank_scores_as_offline(service: Service, rows: list[Row], offline: list[float]) -> None:
    """/rank gives every row the offline logit, candidates as rows and as columns alike."""
    found: dict[str, list[float]] = {"rows": [0.0] * len(rows), "columns": [0.0] * len(rows)}
    for numbers in groups(rows).values():
        context = context_of(rows[numbers[0]])
        shown = [candidate_of(rows[n]) for n in numbers]
        forms = {
            "rows": [{"id": n, "features": c} for n, c in zip(numbers, shown, strict=True)],
            "columns": {
                "id": numbers,
                "features": {name: [c.get(name) for c in shown] for name in CANDIDATE},
            },
        }
        for form, candidates in forms.items():
            for place in service.rank(context=context, candidates=candidates):
                assert place["id"] == numbers[place["index"]]
                found[form][place["id"]] = logit(place["score"])
    assert_near(found["rows"], offline)
    assert found["columns"] == found["rows"]


def test_rank_orders_as_predict_scores(service: Service, rows: list[Row]) -> None:
    """A list ranks by falling score, the same in both forms, and scores as through /predict."""
    context = context_of(rows[0])
    shown = [candidate_of(row) for row in rows[:200]]
    scores = service.predict([{**context, **candidate} for candidate in shown])
    by_rows = service.rank(context=context, candidates=[{"features": c} for c in shown])
    columns = {name: [c.get(name) for c in shown] for name in CANDIDATE}
    by_columns = service.rank(context=context, candidates={"features": columns})

    assert by_rows == by_columns
    assert sorted(place["index"] for place in by_rows) == list(range(200))
    falling = [place["score"] for place in by_rows]
    assert falling == sorted(falling, reverse=True)
    assert_near(falling, [scores[place["index"]] for place in by_rows], COMPANY)
    best = service.rank(context=context, candidates={"features": columns}, top_k=7)
    assert [place["index"] for place in best] == [place["index"] for place in by_rows[:7]]


def test_equal_candidates_keep_the_order_of_the_request(service: Service, rows: list[Row]) -> None:
    """Candidates with one logit stand as they came; ids are echoed with their type."""
    candidate = candidate_of(rows[1])
    ids = ["a", 7, "7", 2**63, 'é\n"', None]
    shown = [{"features": candidate, **({} if i is None else {"id": i})} for i in ids]
    ranking = service.rank(context=context_of(rows[0]), candidates=shown)
    assert [place["index"] for place in ranking] == list(range(len(ids)))
    assert [place.get("id") for place in ranking] == ids
    assert "id" not in ranking[-1]


@pytest.mark.parametrize("user", [KNOWN_USER, LARGEST_USER])
def test_an_integer_has_one_score_in_every_spelling(
    service: Service, rows: list[Row], user: int
) -> None:
    """12345, "12345", 12345.0 and "12345.0" are the trained value, not an unseen one."""
    base = {name: value for name, value in rows[0].items() if name != "user_id"}
    forms: list[Any] = [user, str(user), f"{user}.0"] + ([float(user)] if user < 2**53 else [])
    scores = [service.predict([{**base, "user_id": form}])[0] for form in forms]
    assert len(set(scores)) == 1
    unseen = service.predict([{**base, "user_id": 999_999_999_999}])[0]
    assert abs(logit(scores[0]) - logit(unseen)) > 10 * TOLERANCE


def test_company_does_not_change_a_score(service: Service, sample: Sample) -> None:
    """500 rows score alone as at every position of random batches of several sizes."""
    rows = sample.rows[:500]
    texts = [json.dumps(row) for row in rows]
    count = len(rows)

    async def run() -> None:
        wire = await Wire.open(service.port)

        async def scores(numbers: list[int]) -> list[float]:
            instances = ",".join([texts[number] for number in numbers])
            status, content = await wire.post("/predict", f'{{"instances":[{instances}]}}'.encode())
            assert status == 200, content
            return list(json.loads(content)["predictions"])

        alone = [(await scores([number]))[0] for number in range(count)]
        for size in (2, 3, 4, 8, 33, 64):
            order = random.Random(size).sample(range(count), count)
            for start in range(count):
                part = [order[(start + place) % count] for place in range(size)]
                assert_near(await scores(part), [alone[number] for number in part], COMPANY)
        await wire.close()

    asyncio.run(run())


def test_rank_keeps_its_order_under_other_traffic(service: Service, rows: list[Row]) -> None:
    """A list ranks the same while others are scored; near-ties alone may change places."""
    context = context_of(rows[3])
    body = {"context": context, "candidates": [{"features": candidate_of(r)} for r in rows[:300]]}
    quiet = service.rank(**body)
    scores = {place["index"]: logit(place["score"]) for place in quiet}
    with ThreadPoolExecutor(6) as threads:
        traffic = [threads.submit(service.predict, rows[i : i + 40]) for i in range(0, 900, 5)]
        loud = [service.rank(**body) for _ in range(20)]
        for future in traffic:
            future.result()
    for ranking in loud:
        order = [scores[place["index"]] for place in ranking]
        assert sorted(place["index"] for place in ranking) == list(range(300))
        assert all(a >= b - TOLERANCE for a, b in pairwise(order))


def test_key_order_changes_nothing(service: Service, rows: list[Row]) -> None:
    """50 orders of a row's keys give the same bytes; so do candidates with keys in any order."""
    rng = random.Random(3)

    def shuffled(row: Row) -> Row:
        return dict(rng.sample(list(row.items()), len(row)))

    first = service.post("/predict", {"instances": [rows[0]]}).content
    for _ in range(50):
        assert service.post("/predict", {"instances": [shuffled(rows[0])]}).content == first

    context, shown = context_of(rows[0]), [candidate_of(row) for row in rows[:30]]
    plain = service.rank(context=context, candidates=[{"features": c} for c in shown])
    mixed = service.rank(
        candidates=[shuffled({"id": None, "features": shuffled(c)}) for c in shown],
        context=shuffled(context),
    )
    assert mixed == plain


def test_unknown_fields_are_ignored_counted_and_named_once(
    start_service: StartService, rows: list[Row]
) -> None:
    """Unknown fields change no score; a metric counts them, the log names them once."""
    service = start_service()
    expected = service.predict([rows[0]])
    assert service.predict([{"x_unheard": 1, **rows[0], "y_unheard": {"a": []}}]) == expected
    assert service.predict([{**rows[0], "x_unheard": [2]}]) == expected
    context, features = context_of(rows[0]), candidate_of(rows[0])
    plain = service.rank(context=context, candidates=[{"features": features}])
    more = {**features, "x_unheard": 1}
    assert service.rank(context={**context, "z": 1}, candidates=[{"features": more}]) == plain
    columns = {name: [value] for name, value in more.items()}
    assert service.rank(context=context, candidates={"features": columns}) == plain
    assert service.metrics()["ctr_unknown_fields_total"] == 6
    service.wait_told("unknown field", 3)
    named = [event["message"] for event in service.events() if "unknown field" in event["message"]]
    assert len(named) == 3
    assert sum("x_unheard" in message for message in named) == 1


def test_a_missing_field_shifts_no_other(service: Service, rows: list[Row]) -> None:
    """An absent field scores as null does, and as an empty text where the spec says so."""
    row = next(r for r in rows if len(r) == len(CONTEXT) + len(CANDIDATE))
    for name in row:
        if name == "placement":
            continue
        without = service.predict([{k: v for k, v in row.items() if k != name}])
        assert service.predict([{**row, name: None}]) == without
        if name in ("user_id", "country", "item_id"):
            assert service.predict([{**row, name: ""}]) == without
    assert service.predict([{**row, "tags": []}]) != service.predict([{**row, "tags": None}])


def test_reserved_words_are_ordinary_values(service: Service, rows: list[Row]) -> None:
    """No text collides with a reserved index: "NA" and "null" are countries like others."""
    base = {name: value for name, value in rows[0].items() if name != "country"}
    found = [
        service.predict([{**base, "country": country}])[0]
        for country in (None, "NA", "null", "never seen", "us", "US")
    ]
    assert len(set(found)) == len(found)


def test_every_caller_gets_their_own_score(service: Service, sample: Sample) -> None:
    """64 different rows sent at once, again and again in another order, keep their own scores."""
    rng = random.Random(4)
    rows = distinct_rows(sample.rows, 64)
    alone = [service.predict([row])[0] for row in rows]
    bodies = [json.dumps({"instances": [row]}).encode() for row in rows]

    async def rounds() -> None:
        # httpx would spend four fifths of the time in itself.
        wires = [await Wire.open(service.port) for _ in rows]
        for _ in range(100):
            order = rng.sample(range(64), 64)
            answers = await asyncio.gather(
                *(w.post("/predict", bodies[n]) for w, n in zip(wires, order, strict=True))
            )
            for number, (status, content) in zip(order, answers, strict=True):
                assert status == 200, content
                assert_near(json.loads(content)["predictions"], [alone[number]], COMPANY)
        for wire in wires:
            await wire.close()

    before = service.metrics()
    asyncio.run(rounds())
    after = service.metrics()
    runs = after["ctr_batch_rows_count"] - before["ctr_batch_rows_count"]
    assert after["ctr_batch_rows_sum"] - before["ctr_batch_rows_sum"] == 6400
    assert runs < 6400, "no two requests ever shared a run: the test would prove little"


def distinct_rows(rows: list[Row], count: int) -> list[Row]:
    """Different rows, half of them pairs that differ in one field only."""
    found: list[Row] = []
    for row in rows:
        if len(row) == len(CONTEXT) + len(CANDIDATE):
            found += [row, {**row, "placement": "side" if row["placement"] == "top" else "top"}]
        if len(found) >= count:
            break
    return found[:count]


@pytest.fixture(scope="module")
def lingering(start_shared_service: StartService) -> Service:
    """A service whose idle engine waits 50 ms, so that concurrent requests share a run."""
    return start_shared_service(batch_linger_us=50_000)


def test_one_bad_body_fails_alone(lingering: Service, sample: Sample) -> None:
    """Of eight requests in one window, the seven good ones score as alone; the bad one is 422."""
    rng = random.Random(5)
    rows = distinct_rows(sample.rows, 64)
    alone = lingering.predict(rows)
    bad = {"instances": [{**rows[0], "country": {"a": [1, {}]}}]}
    before = lingering.metrics()

    async def rounds() -> None:
        wires = [await Wire.open(lingering.port) for _ in range(8)]
        for _ in range(30):
            numbers = rng.sample(range(64), 7)
            bodies: list[Any] = [{"instances": [rows[number]]} for number in numbers]
            place = rng.randrange(8)
            bodies.insert(place, bad)
            for wire, body in zip(wires, bodies, strict=True):
                wire.send("/predict", json.dumps(body).encode())
            told = [await wire.answer() for wire in wires]
            answers = [(status, json.loads(content)) for status, content in told]
            status, error = answers.pop(place)
            assert status == 422
            assert error["error"]["details"][0]["path"] == "instances[0].country"
            assert [status for status, _ in answers] == [200] * 7
            found = [answer["predictions"] for _, answer in answers]
            expected = [alone[number] for number in numbers]
            assert_near([s for scores in found for s in scores], expected, COMPANY)
        for wire in wires:
            await wire.close()

    asyncio.run(rounds())
    after = lingering.metrics()
    runs = after["ctr_batch_rows_count"] - before["ctr_batch_rows_count"]
    assert runs < 7 * 30 / 2, "the good requests did not share runs"


def test_one_bad_candidate_names_itself(lingering: Service, sample: Sample) -> None:
    """A list with one bad candidate is refused by its path, while lists beside it are ranked."""
    good = {
        "context": context_of(sample.rows[0]),
        "candidates": [{"features": candidate_of(row)} for row in sample.rows[:20]],
    }
    bad = json.loads(json.dumps(good))
    bad["candidates"][5]["features"]["item_id"] = True
    expected = lingering.rank(**good)
    answers = score_concurrently(lingering, [good, bad, good], "/rank")
    assert [status for status, _ in answers] == [200, 422, 200]
    assert answers[1][1]["error"]["details"][0]["path"] == "candidates[5].features.item_id"
    assert answers[0][1]["ranking"] == answers[2][1]["ranking"] == expected


@pytest.mark.parametrize("columnar", [False, True])
def test_a_bad_candidate_at_the_end_of_a_long_list(
    service: Service, sample: Sample, columnar: bool
) -> None:
    """Its list is refused although the engine has begun with it; nothing stays behind."""
    row = sample.rows[0]
    shown = [candidate_of(each) for each in sample.rows[:1000]]
    body: Row = {"context": context_of(row)}
    if columnar:
        body["candidates"] = {"features": {name: [c.get(name) for c in shown] for name in shown[0]}}
        last: Any = body["candidates"]["features"]["price"]
        place, path = len(shown) - 1, f"candidates.features.price[{len(shown) - 1}]"
    else:
        body["candidates"] = [{"features": candidate} for candidate in shown]
        last = shown[-1]
        place, path = "price", f"candidates[{len(shown) - 1}].features.price"
    good = service.post("/rank", body)
    assert good.status_code == 200
    kept, last[place] = last[place], "dear"
    for _ in range(20):
        answer = service.post("/rank", body)
        assert answer.status_code == 422
        assert [d["path"] for d in strict(answer.content)["error"]["details"]] == [path]
    last[place] = kept
    assert service.post("/rank", body).content == good.content
    assert service.metrics()["ctr_queued_rows"] == 0


def test_kserve_path_takes_the_same_body(service: Service, rows: list[Row]) -> None:
    """/v1/models/{name}:predict answers as /predict, whatever name and signature are given."""
    body = {"signature_name": "serving_default", "instances": rows[:3]}
    expected = service.post("/predict", body).json()
    assert service.post("/v1/models/x:predict", body).json() == expected
    assert service.post("/v1/models/any.name-1:predict", body).json() == expected


def test_nothing_to_score_is_an_empty_answer(service: Service, rows: list[Row]) -> None:
    """No instances and no candidates give empty lists."""
    assert service.predict([]) == []
    assert service.rank(context=context_of(rows[0]), candidates=[]) == []


def test_no_columns_are_an_empty_answer(service: Service, rows: list[Row]) -> None:
    """The columnar form may be empty too."""
    context = context_of(rows[0])
    assert service.rank(context=context, candidates={"features": {}}) == []
    assert service.rank(context=context, candidates={"features": {"price": []}, "id": []}) == []


def test_overflowing_values_never_reach_a_score(service: Service, rows: list[Row]) -> None:
    """3e38 is a number like others and ranks finitely; what float32 cannot hold is named."""
    context = context_of(rows[0])
    shown = [candidate_of(row) for row in rows[:30]]
    shown[7] = shown[6]
    shown[5] = {**shown[5], "price": 3e38}
    ranking = service.rank(context=context, candidates=[{"features": c} for c in shown])
    scores = [place["score"] for place in ranking]
    assert sorted(place["index"] for place in ranking) == list(range(30))
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    by_index = {place["index"]: place["score"] for place in ranking}
    assert abs(by_index[6] - by_index[7]) <= COMPANY

    for huge in (3.5e38, -1e300, 10**400):
        shown[5] = {**shown[5], "price": huge}
        answer = service.post(
            "/rank", {"context": context, "candidates": [{"features": c} for c in shown]}
        )
        assert answer.status_code == 422
        details = answer.json()["error"]["details"]
        assert [detail["path"] for detail in details] == ["candidates[5].features.price"]
