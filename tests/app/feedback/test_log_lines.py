"""Lines of the request log: an item's values are those that were scored, or none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.features.graph_inputs import Scores
from app.features.spec import Categorical, Numeric
from app.feedback.log_format import LoggedRequest, decode_line, encode_line
from app.feedback.log_lines import Answered, LineMaker
from app.feedback.sample import Sample
from app.scoring.job import ListedItems
from app.scoring.trace import Trace
from tests.support.encoding import encoder_for

FIELDS = (
    Categorical(name="user", side="context", min_count=1),
    Numeric(name="price", side="candidate", encoding="edges", edges=(1.0, 2.0, 3.0)),
    Numeric(name="stock", side="candidate", encoding="edges", edges=(1.0, 2.0), dynamic=True),
)
BODY = b'{"context": {"user": "a"}, "candidates": {"ids": [7]%b}}'
OWN = b', "features": {"stock": [1.5]}'


def logged(scored: dict[str, Any], stored: dict[str, Any] | None, own: bytes = b"") -> Any:
    """The values that are logged of an item, and how many had changed."""
    encoder = encoder_for(*FIELDS, frame={"user": ["a"], "price": [1.0], "stock": [1.0]})
    changed: list[int] = []
    maker = LineMaker(Sample(1.0), None, (), None, lambda identity: stored, changed.append)
    trace = Trace(BODY % own, None)
    trace.begin_list({"user": "a"})
    trace.take_rows([encoder.context.row({"user": "a"})], encoder.candidate.row(scored), None)
    one = np.array([0.5], np.float32)
    items = ListedItems([0], (), False)
    line = maker.line(
        Answered(1.0, b"r", "v", "rank", encoder, trace, Scores(one, one), [7], items, None, [])
    )
    assert line is not None
    return line.candidates[0].features, sum(changed)


@pytest.mark.parametrize(
    ("scored", "stored", "own", "features"),
    [
        ({"price": 2.5}, {"price": 2.5}, b"", {"price": 2.5}),
        ({"price": 2.5}, {"price": 2.7}, b"", {"price": 2.7}),
        ({"price": 2.5}, {"price": 2.5, "stock": 9.0}, b"", {"price": 2.5}),
        (
            {"price": 2.5, "stock": 1.5},
            {"price": 2.5, "stock": 9},
            OWN,
            {"price": 2.5, "stock": 1.5},
        ),
    ],
    ids=["as it was", "another one that is encoded the same", "dynamic", "its own value"],
)
def test_values_of_an_item_are_those_that_were_scored(
    scored: dict[str, Any], stored: dict[str, Any], own: bytes, features: dict[str, Any]
) -> None:
    """Stored values below the request's own; those of a dynamic field are never stored ones."""
    assert logged(scored, stored, own) == (features, 0)


@pytest.mark.parametrize("stored", [{"price": 0.5}, {}, None, {"price": "text"}])
def test_an_item_that_has_changed_has_no_values(stored: dict[str, Any] | None) -> None:
    """Its encoded row tells; it is counted."""
    assert logged({"price": 2.5}, stored) == (None, 1)


PRETTY = b"""{
  "instances": [
    {"user": "\xc3\xa9 \\u00e9\\n", "price": 1.5,
     "stock": [1.5], "extra": {"a": [1, null]}}
  ]
}"""
LISTED = b'{"context": {"user": "a"}, "candidates": [{"features": {"price":\r2.5}, "id": 7}]}'


@pytest.mark.parametrize("omit", [(), ("stock", "nobody")])
@pytest.mark.parametrize(
    ("route", "body", "features"),
    [
        (
            "predict", PRETTY,
            {"user": "é é\n", "price": 1.5, "stock": [1.5], "extra": {"a": [1, None]}},
        ),
        ("rank", LISTED, {"price": 2.5}),
    ],
)  # fmt: skip
def test_a_line_is_one_line_with_the_values_that_were_sent(
    route: Any, body: bytes, features: dict[str, Any], omit: tuple[str, ...]
) -> None:
    """However the body is written; fields that are left out are not in it."""
    encoder = encoder_for(*FIELDS, frame={"user": ["a"], "price": [1.0], "stock": [1.0]})
    maker = LineMaker(Sample(1.0), None, omit, None, lambda identity: None, lambda count: None)
    trace = Trace(body, None)
    trace.begin_list({"user": "a"})
    trace.take_rows([encoder.context.row({"user": "a"})], encoder.candidate.row({}), None)
    one = np.array([0.5], np.float32)
    made = maker.line(
        Answered(1.0, b"r", "v", route, encoder, trace, Scores(one, one), None, None, None, [])
    )
    assert made is not None
    text = encode_line(made)
    assert len(text.splitlines()) == 1
    line = decode_line(text)
    assert isinstance(line, LoggedRequest)
    expected = {name: value for name, value in features.items() if name not in omit}
    assert line.candidates[0].features == expected
