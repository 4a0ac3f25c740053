"""A /predict whose instances belong to two bundles: one answer, or one error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from app.errors import EngineFailed, Invalid, Overloaded
from app.features.graph_inputs import Scores
from app.rollout.split_predict import split_predict
from app.scoring.job import ListedItems


class Request:
    """A caller that keeps its answer."""

    deadline, rows, of_page = 5.0, 0, False
    listed: ListedItems | None = None
    versions: Any = None
    answer: Any = None

    def departed(self) -> bool:
        return False

    def trace_of(self, body: bytes) -> None:
        return None

    def scored(self, scores: Scores) -> None:
        assert self.answer is None
        self.answer = scores.score.tolist()

    def failed(self, error: Exception) -> None:
        assert self.answer is None
        self.answer = error


class Side:
    """A scorer whose instances are numbers and its scores ten times them, and what it counts."""

    def __init__(self, version: str, refuse: Exception | None = None) -> None:
        self.version, self.refuse = version, refuse
        self.reading = self.failures = 0
        self.halves: list[tuple[Any, list[int]]] = []
        self.seen: list[list[float]] = []

    def predict(self, body: bytes, half: Any) -> Iterator[None]:
        yield None
        if self.refuse is not None:
            raise self.refuse
        numbers = msgspec.json.decode(body)["instances"]
        half.rows = len(numbers)
        self.halves.append((half, numbers))

    def scored(self, scores: Scores, begun: float) -> None:
        self.seen.append(scores.score.tolist())

    def failed(self) -> None:
        self.failures += 1


def begin(request: Request, live: Side, canary: Side) -> list[str]:
    """Let places 1 and 3 of five be the canary's; tell whether the whole body was queued."""
    whole: list[str] = []

    def take() -> Iterator[None]:
        whole.append("whole")
        yield None

    sides = [place in (1, 3) for place in range(5)]
    steps = split_predict(
        b'{"instances": [0, 1, 2, 3, 4]}', cast(Any, request), cast(Any, (live, live)),
        cast(Any, (canary, canary)), sides, 0.0, cast(Any, take),
    )  # fmt: skip
    for _ in steps:
        if not whole:
            assert live.reading == canary.reading == 1, "neither may be closed meanwhile"
    assert live.reading == canary.reading == 0
    return whole


def scores(numbers: list[int]) -> Scores:
    values = np.array(numbers, np.float32) * 10
    return Scores(values, values)


@pytest.mark.parametrize("first", [0, 1])
def test_scores_come_in_the_order_of_the_request(first: int) -> None:
    """Whichever half is the first to have them."""
    request, sides = Request(), [Side("live"), Side("canary")]
    assert begin(request, *sides) == []
    assert request.versions == ["live", "canary", "live", "canary", "live"]
    for side in (sides[first], sides[1 - first]):
        assert request.answer is None
        half, numbers = side.halves[0]
        half.scored(scores(numbers))
        assert side.seen == [[10.0 * number for number in numbers]]
    assert request.answer == [0, 10, 20, 30, 40]


def test_unknown_items_keep_their_places() -> None:
    request, live, canary = Request(), Side("live"), Side("canary")
    begin(request, live, canary)
    half, _ = live.halves[0]
    half.listed = ListedItems([0, 2], [(1, "gone")], False)
    half.scored(scores([0, 4]))
    half, numbers = canary.halves[0]
    half.listed = ListedItems([0, 1], [], False)
    half.scored(scores(numbers))
    assert request.listed == ListedItems([0, 1, 3, 4], [(2, "gone")], False)
    assert request.answer == [0, 10, 30, 40]


@pytest.mark.parametrize("failing", [0, 1])
def test_one_error_answers_for_both(failing: int) -> None:
    """It counts on the side that failed; scores that still come are dropped."""
    request, sides = Request(), [Side("live"), Side("canary")]
    begin(request, *sides)
    half, _ = sides[failing].halves[0]
    half.failed(EngineFailed("gone"))
    half, numbers = sides[1 - failing].halves[0]
    assert half.departed()
    half.scored(scores(numbers))
    assert isinstance(request.answer, EngineFailed)
    assert [side.failures for side in sides] == [1 - failing, failing]


def test_a_refused_half_is_the_whole_requests_matter() -> None:
    """Whose problems are named by their places in it."""
    request, live = Request(), Side("live")
    canary = Side("canary", Invalid("the request has invalid values"))
    assert begin(request, live, canary) == ["whole"]
    assert request.versions is None
    half, numbers = live.halves[0]
    assert half.departed()
    half.scored(scores(numbers))
    assert request.answer is None


def test_a_full_queue_is_told() -> None:
    request, live, canary = Request(), Side("live"), Side("canary", Overloaded("full"))
    with pytest.raises(Overloaded):
        begin(request, live, canary)
    assert (live.failures, canary.failures, canary.reading) == (0, 1, 0)
