"""What is wrong with a ``/rank`` body is named together: keys, ids of a type that no id has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import Invalid
from app.scoring.not_finite import MAX_DETAILS
from app.scoring.problems import FieldNames, Problems
from app.scoring.rank_bodies import decode_rank
from app.scoring.wire import CandidateColumns
from tests.support.encoding import PRICE, USER, encoder_for

ENCODER = encoder_for(USER, PRICE)


def decoded(body: dict[str, Any], known_only: bool = True, counted: list[int] | None = None) -> Any:
    counts = [] if counted is None else counted
    names = FieldNames(ENCODER, known_only, counts.append)
    return decode_rank(json.dumps({"context": {}, **body}).encode(), names, Problems())


def problems(body: dict[str, Any], known_only: bool = True) -> tuple[dict[str, str], int]:
    with pytest.raises(Invalid) as caught:
        decoded(body, known_only)
    return {each.path: each.problem for each in caught.value.details}, caught.value.total


def test_a_misspelt_key_is_refused_where_unknown_fields_are() -> None:
    """With the nearest key; otherwise it is counted and ignored, and the others count."""
    body = {"candidates": {"ids": [7]}, "topk": 3, "on_unknwon": "last", "top_k": 2, "x" * 99: 1}
    assert problems(body) == (
        {
            "topk": "unknown key; did you mean 'top_k'?",
            "on_unknwon": "unknown key; did you mean 'on_unknown'?",
            "x" * 64: "unknown key",
        },
        3,
    )
    counted: list[int] = []
    found = decoded(body, False, counted)
    assert (found.top_k, found.on_unknown, counted) == (2, None, [3])
    assert isinstance(found.candidates, CandidateColumns)
    assert found.candidates.ids == [7]


@pytest.mark.parametrize("known_only", [True, False])
@pytest.mark.parametrize("name", ["ids", "exclude", "id"])
def test_wrong_ids_are_named_together(name: str, known_only: bool) -> None:
    """Up to a bound, with how many there are; of a column of ids null is none."""
    wrong: list[Any] = [1.5, True, [], {}, *([] if name == "id" else [None])]
    listed: dict[str, Any] = {"ids": [], "features": {}, name: [1, "a", *wrong, 2**70, "b"]}
    found, total = problems({"candidates": listed, "topp_k": 1}, known_only)
    named = {path: told for path, told in found.items() if path.startswith("candidates")}
    kinds = ["float", "bool", "array", "object", "null"][: len(wrong)]
    assert named == {
        f"candidates.{name}[{place}]": f"Expected `int | str`, got `{kind}`"
        for place, kind in enumerate(kinds, 2)
    }
    assert total == len(wrong) + known_only
    listed[name] = [None, 0.5] * 500
    found, total = problems({"candidates": listed})
    assert (len(found), total) == (MAX_DETAILS, 500 if name == "id" else 1000)


def test_other_faults_are_told_as_they_are() -> None:
    """A fault of another form beside unknown keys too."""
    assert problems({}) == ({"body": "Object missing required field `candidates`"}, 1)
    found, _ = problems({"candidates": [], "top_k": 0, "more": 1}, known_only=False)
    assert found == {"top_k": "Expected `int` >= 1"}
    found, _ = problems({"candidates": 7})
    assert found == {"candidates": "Expected `object | array`, got `int`"}
