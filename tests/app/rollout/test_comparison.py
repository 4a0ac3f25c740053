"""A shadow's scores beside those that were answered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.features.graph_inputs import Scores
from app.rollout.comparison import Answer, compare


def answer(logits: list[float], ids: Any = None) -> Answer:
    logit = np.array(logits, np.float32)
    return Answer(Scores(logit, 1 / (1 + np.exp(-logit))), ids)


def test_rows_are_compared_in_their_order() -> None:
    found = compare(answer([0.0, 1.0]), answer([0.5, -1.0]), None, ranked=False)
    assert found is not None
    assert found.differences.tolist() == [0.5, -2.0]
    assert found.live_score == pytest.approx(0.5 + 0.731059, abs=1e-5)
    assert found.shadow_score == pytest.approx(0.622459 + 0.268941, abs=1e-5)
    assert found.shared_top is None


@pytest.mark.parametrize(("top", "shared"), [(1, 0.0), (2, 0.5), (3, 1.0), (4, None), (None, None)])
def test_first_places_are_compared(top: int | None, shared: float | None) -> None:
    """Where there are more candidates than places."""
    live, shadow = answer([3.0, 2.0, 1.0, 0.0]), answer([2.0, 1.0, 3.0, 0.0])
    found = compare(live, shadow, top, ranked=True)
    assert found is not None
    assert found.shared_top == shared


def test_items_are_found_by_their_ids() -> None:
    """The catalogue changed between both: those in common are compared."""
    live = answer([1.0, 2.0, 3.0], ["a", "b", "c"])
    found = compare(live, answer([9.0, 7.0, 5.0], ["c", "d", "a"]), None, ranked=True)
    assert found is not None
    assert found.differences.tolist() == [4.0, 6.0]
    assert compare(live, answer([1.0], ["z"]), None, ranked=True) is None


def test_rows_without_ids_need_the_same_number() -> None:
    assert compare(answer([1.0]), answer([1.0, 2.0]), None, ranked=False) is None
    assert compare(answer([]), answer([]), None, ranked=True) is None
