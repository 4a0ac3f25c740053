"""Numbers that are not finite are named by their fields, however long the body is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from time import thread_time

import pytest

from app.errors import Invalid, Undecodable
from app.scoring.decoding import context_decoder, decode, decode_part, predict_decoder, rank_decoder
from app.scoring.not_finite import (
    MAX_COUNTED,
    MAX_DETAILS,
    MAX_PATH,
    PROBLEM,
    SHORT_BYTES,
    find_not_finite,
)

FILL = " " * SHORT_BYTES
LITERALS = ["NaN", "Infinity", "-Infinity"]
long_and_short = pytest.mark.parametrize("fill", ["", FILL], ids=["short", "long"])


def paths(body: str) -> tuple[list[str], int]:
    details, total = find_not_finite(body.encode())
    assert {detail.problem for detail in details} <= {PROBLEM}
    return [detail.path for detail in details], total


@long_and_short
@pytest.mark.parametrize("literal", LITERALS)
@pytest.mark.parametrize(
    ("body", "path"),
    [
        ('{"instances": [{}, {"a": 1, "price": %s}]}', "instances[1].price"),
        ('{"instances": [{"tags": [1, [2, %s]]}]}', "instances[0].tags[1][1]"),
        ('{"context": {"a": %s}, "candidates": []}', "context.a"),
        ('{"context": {}, "candidates": [{"features": {"é": %s}}]}', "candidates[0].features.é"),
        ('{"candidates": {"features": {"p": [1, %s]}}, "context": {}}', "candidates.features.p[1]"),
        ('{ "a" : [ 1 , %s ] }', "a[1]"),
        ('{"a":[1,%s]}', "a[1]"),
        ("[%s]", "[0]"),
    ],
)  # fmt: skip
def test_a_literal_is_named_by_its_path(fill: str, literal: str, body: str, path: str) -> None:
    """NaN and the infinities are found in every place of a body, with spaces or without."""
    assert paths(body % literal + fill) == ([path], 1)


@long_and_short
def test_all_are_counted_and_the_first_named(fill: str) -> None:
    """The answer is bounded, and says how many there are."""
    body = '{"instances": [' + ", ".join(['{"a": NaN}'] * 25) + "]}"
    assert paths(body + fill) == ([f"instances[{i}].a" for i in range(MAX_DETAILS)], 25)


def test_counting_is_bounded() -> None:
    """A long body of nothing else is not counted to its end."""
    body = '{"instances": [{"a": [' + ", ".join(["NaN"] * 200_000) + "]}]}"
    found, total = paths(body)
    assert len(found) == MAX_DETAILS
    assert total == MAX_COUNTED


@long_and_short
@pytest.mark.parametrize(
    "body",
    [
        '{"instances": [{"a": "NaN", "b": "x, NaN, y", "NaN": 1}]}',
        '{"instances": [{"a": "Infinity"}]}',
        '{"instances": []}',
    ],
)
def test_text_is_no_number(fill: str, body: str) -> None:
    """A body whose text reads NaN is decoded like any other."""
    assert decode(predict_decoder, (body + fill).encode()).instances is not None


@long_and_short
@pytest.mark.parametrize(
    "body", ['{"a": NaN, }', '{"a": NaN', '{"a": NaN} x', '{"a": nan}', "NaN NaN"]
)
def test_what_is_no_json_otherwise_is_not_searched(fill: str, body: str) -> None:
    """Such a body is refused as JSON, not for its numbers."""
    assert paths(body + fill) == ([], 0)


@long_and_short
def test_both_endpoints_answer_422_with_the_field(fill: str) -> None:
    """A long body is refused like a short one: 422, with the path."""
    for decoder, body in (
        (predict_decoder, '{"instances": [{"price": NaN}]}'),
        (rank_decoder, '{"context": {}, "candidates": [{"features": {"price": NaN}}]}'),
        (rank_decoder, '{"context": {}, "candidates": {"features": {"price": [NaN]}}}'),
    ):
        with pytest.raises(Invalid) as caught:
            decode(decoder, (body + fill).encode())
        assert str(caught.value) == "a number is not finite"
        assert "price" in caught.value.details[0].path


@long_and_short
def test_an_overflow_is_found_in_its_row(fill: str) -> None:
    """1e999 is JSON: it is refused when its row is decoded, by the same message and path."""
    body = ('{"context": {"a": [1, 1e999]}, "candidates": []}' + fill).encode()
    with pytest.raises(Invalid) as caught:
        decode_part(context_decoder, body, decode(rank_decoder, body).context, "context")
    assert [tuple(detail) for detail in caught.value.details] == [("context.a[1]", PROBLEM)]


def test_deep_and_long_names_are_bounded() -> None:
    """Nesting and names of a hostile body cost a bounded time, and give a bounded path."""
    deep = '{"instances": [' + '{"' + "n" * 1_000 + '": ' * 1
    body = deep + '{"a":' * 300 + "NaN" + "}" * 300 + "}]}" + FILL
    [path], total = paths(body)
    assert total == 1
    assert path.startswith("instances[0].nnn")
    assert len(path) <= MAX_PATH + 1
    nested = '{"a":' * 100_000 + "NaN" + "}" * 100_000 + FILL
    assert paths(nested) == ([], 0)


@pytest.mark.parametrize(
    "body",
    [
        lambda: json.dumps(
            {"instances": [{"a": "x" * 50, "b": i} for i in range(60_000)] + [math.nan]}
        ),
        lambda: json.dumps({"instances": [{"a": math.nan} for _ in range(300_000)]}),
        lambda: json.dumps({"candidates": {"features": {"p": [0.5] * 900_000 + [math.inf]}}}),
        lambda: '{"instances": [' + "[" * 4_000_000 + "NaN" + "]" * 4_000_000 + "]}",
    ],
    ids=["rows", "all rows", "column", "nested"],
)
def test_a_long_search_is_a_few_decodings(body: Callable[[], str]) -> None:
    """Naming the field must not hold up others: it takes a small multiple of decoding the body."""
    encoded = body().encode()
    rows = json.dumps({"instances": [{"a": "x" * 50, "b": i} for i in range(60_000)]}).encode()
    unit = min(_seconds(lambda: decode(predict_decoder, rows)) for _ in range(5))
    bytes_ratio = max(1.0, len(encoded) / len(rows))
    search = min(_seconds(lambda: find_not_finite(encoded)) for _ in range(3))
    assert search < 40 * unit * bytes_ratio


def _seconds(work: object) -> float:
    """The CPU time of some work: on a busy machine others have their turns in it."""
    start = thread_time()
    work()  # type: ignore[operator]
    return thread_time() - start


def test_a_long_body_that_is_no_json_says_so() -> None:
    """Without such numbers the decoder's own words are the answer."""
    with pytest.raises(Undecodable, match="not JSON"):
        decode(predict_decoder, ('{"instances": [}' + FILL).encode())
