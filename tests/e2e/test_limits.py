"""What one request may cost is bounded, and each bound says where it was passed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import StartService
from tests.samples import Sample, candidate_of, context_of
from tests.serving import Service, strict

pytestmark = pytest.mark.e2e

ROW_BYTES = 2_000
Row = dict[str, Any]


@pytest.fixture(scope="module")
def small(start_service: StartService) -> Service:
    """A service that takes small rows only."""
    return start_service(max_row_bytes=ROW_BYTES)


@pytest.fixture(scope="module")
def row(sample: Sample) -> Row:
    """A row with every field."""
    return max(sample.rows, key=len)


def sized(value: Row, size: int) -> str:
    """An object of so many bytes of JSON: a field that no spec knows makes up the rest."""
    text = json.dumps({**value, "unheard": ""})
    return f"{text[:-2]}{'y' * (size - len(text))}{text[-2:]}"


def place_of(answer: Any, status: int) -> str | None:
    """Where an answer of a status says that the bound was passed."""
    assert answer.status_code == status, answer.text
    if status == 200:
        return None
    error = strict(answer.content)["error"]
    assert error["code"] == "too_large"
    (detail,) = error["details"]
    assert detail["problem"] == f"over {ROW_BYTES} bytes"
    return str(detail["path"])


@pytest.mark.parametrize(("over", "status"), [(0, 200), (1, 413)])
def test_each_row_has_its_bound(small: Service, row: Row, over: int, status: int) -> None:
    """An instance, a context and a candidate of as many bytes as allowed; one more is named."""
    size = ROW_BYTES + over
    context, candidate = context_of(row), candidate_of(row)
    large = sized(row, size)
    assert len(large) == size
    answer = small.post("/predict", f'{{"instances":[{json.dumps(row)},{large}]}}'.encode())
    assert place_of(answer, status) == ("instances[1]" if over else None)
    body = f'{{"context":{sized(context, size)},"candidates":[]}}'
    assert place_of(small.post("/rank", body.encode()), status) == ("context" if over else None)
    inner = sized(candidate, size - len('{"features":}'))
    body = (
        f'{{"context":{json.dumps(context)},"candidates":'
        f'[{{"features":{{}}}},{{"features":{inner}}}]}}'
    )
    answer = small.post("/rank", body.encode())
    assert place_of(answer, status) == ("candidates[1]" if over else None)


@pytest.mark.parametrize(("over", "status"), [(0, 200), (1, 413)])
def test_each_value_of_a_long_column_has_the_bound_of_a_row(
    small: Service, row: Row, over: int, status: int
) -> None:
    """A column that is long as a whole may have many values, but none that is longer than a row."""
    tags = [["z" * 100]] * 2_000
    tags[1_234] = ["y" * (ROW_BYTES + over - 4)]
    body = {"context": context_of(row), "candidates": {"features": {"tags": tags}}}
    answer = small.post("/rank", json.dumps(body).encode())
    path = "candidates.features.tags[1234]" if over else None
    assert place_of(answer, status) == path


def test_a_long_column_is_read_as_any_other(service: Service, sample: Sample) -> None:
    """Decoded value by value it gives the scores of the same candidates as rows; what is wrong in
    it is named by its place."""
    rows = [candidate_of(row) for row in sample.rows[:1_500]]
    for each in rows:
        each["tags"] = [*each.get("tags", []), "never seen " * 10]
    context = context_of(sample.rows[0])
    names = sorted({name for row in rows for name in row})
    columns = {name: [row.get(name) for row in rows] for name in names}
    assert len(json.dumps(columns["tags"])) > 128 * 1024
    by_row = service.rank(context=context, candidates=[{"features": row} for row in rows])
    by_column = service.rank(context=context, candidates={"features": columns})
    assert [place["index"] for place in by_row] == [place["index"] for place in by_column]
    assert [place["score"] for place in by_row] == pytest.approx(
        [place["score"] for place in by_column], abs=1e-6
    )
    columns["tags"][1_111] = ["fine", 1.5]
    answer = service.post("/rank", {"context": context, "candidates": {"features": columns}})
    assert answer.status_code == 422
    (detail,) = strict(answer.content)["error"]["details"]
    assert detail["path"] == "candidates.features.tags[1111][1]"


def test_a_long_column_has_no_more_values_than_candidates_may_be(
    start_service: StartService, row: Row
) -> None:
    """Too many values are 413 before they are decoded."""
    service = start_service(max_candidates=1_000)
    body = {"context": context_of(row), "candidates": {"features": {"tags": [[]] * 100_000}}}
    answer = service.post("/rank", json.dumps(body).encode())
    assert answer.status_code == 413
    assert strict(answer.content)["error"]["message"] == "more than 1000 candidates"
