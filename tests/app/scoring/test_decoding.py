"""A body that cannot be decoded is refused with the place and the reason, in bounded words."""

from __future__ import annotations

import json

import msgspec
import pytest

from app.errors import Invalid, ServiceError, TooLarge, Undecodable
from app.feedback.event_format import event_decoder
from app.scoring.decoding import (
    MAX_VALUES,
    check_size,
    context_decoder,
    decode,
    decode_part,
    predict_decoder,
    rank_decoder,
)
from app.scoring.not_finite import MAX_DETAILS, MAX_PATH, MAX_STEP
from app.web.v2.wire import infer_decoder


def refusal(body: bytes) -> ServiceError:
    """The error of a ``/rank`` body and of its context."""
    with pytest.raises(ServiceError) as caught:
        decode_part(context_decoder, body, decode(rank_decoder, body).context, "context")
    return caught.value


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"", Undecodable, "the body is not JSON"),
        (b"{", Undecodable, "the body is not JSON"),
        (b'{"context": {}, "candidates": []} x', Undecodable, "the body is not JSON"),
        (b'{"context": {"a": "\xff"}, "candidates": []}', Undecodable, "UTF-8"),
        (
            b'{"context": {}, "candidates": [], "other": ' + b"[" * 100_000,
            Undecodable,
            "nested too deeply",
        ),
        (b"[]", Invalid, "wrong form"),
        (b'{"context": {}}', Invalid, "wrong form"),
        (b'{"context": 3, "candidates": []}', Invalid, "wrong form"),
        (b'{"context": {}, "candidates": [], "top_k": 0}', Invalid, "wrong form"),
        (b'{"context": {"a": NaN}, "candidates": []}', Invalid, "not finite"),
    ],
)
def test_bodies_are_refused_with_the_reason(
    body: bytes, kind: type[ServiceError], message: str
) -> None:
    """Each kind of wrong body has its status and a message that says what is wrong."""
    error = refusal(body)
    assert type(error) is kind
    assert message in str(error)


def test_a_wrong_form_names_its_path() -> None:
    """The path leads from the body's root, through the part that was decoded."""
    body = b'{"context": [1], "candidates": []}'
    assert [d.path for d in refusal(body).details] == ["context"]
    body = b'{"context": {}, "candidates": [], "top_k": "3"}'
    assert [d.path for d in refusal(body).details] == ["top_k"]
    with pytest.raises(Invalid) as caught:
        decode_part(context_decoder, b"", msgspec.Raw(b"[]"), "instances", 7)
    assert [d.path for d in caught.value.details] == ["instances[7]"]


@pytest.mark.parametrize("value", ["bogus", "x" * 200_000, "q - at `$.context`"])
def test_a_wrong_choice_is_told_the_choices_and_not_repeated(value: str) -> None:
    """The answer is as short for a long value, and its path is the field's."""
    body = {"context": {}, "candidates": [{"features": {}}], "on_unknown": value}
    (detail,) = refusal(json.dumps(body).encode()).details
    assert detail.path == "on_unknown"
    assert detail.problem == "Invalid enum value: expected one of 'error', 'last', 'omit'"


def test_choices_are_those_of_the_named_field() -> None:
    """Within lists and unions, and whole numbers too."""
    event = b'{"request_id": "r", "index": 1, "label": 7000000}'
    with pytest.raises(Invalid) as caught:
        decode_part(event_decoder, event, msgspec.Raw(event), "events", 3)
    (detail,) = caught.value.details
    assert detail.path == "events[3].label"
    assert detail.problem == "Invalid enum value: expected one of 0, 1"
    tensors = {"inputs": [{"name": "a", "shape": [1], "datatype": "FP999", "data": [1]}]}
    with pytest.raises(Invalid) as caught:
        decode(infer_decoder, json.dumps(tensors).encode())
    (detail,) = caught.value.details
    assert detail.path == "inputs[0].datatype"
    assert "'FP32'" in detail.problem
    assert "FP999" not in detail.problem


def test_numbers_that_are_not_finite_are_named() -> None:
    """All are counted, the first few named; a huge integer overflows like 1e999."""
    values = ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 5_000] * 4
    body = f'{{"context": {{"a": [{", ".join(values)}]}}, "candidates": []}}'
    error = refusal(body.encode())
    assert error.total == len(values)
    assert [d.path for d in error.details] == [f"context.a[{i}]" for i in range(MAX_DETAILS)]


def test_paths_are_bounded() -> None:
    """Names of any length at any depth give a path of bounded length."""
    inner = "NaN"
    for _ in range(20):
        inner = f'{{"{"n" * 1_000}": {inner}}}'
    [detail] = refusal(f'{{"context": {inner}, "candidates": []}}'.encode()).details
    assert len(detail.path) == MAX_PATH + 1
    assert detail.path.startswith("context." + "n" * MAX_STEP + ".")


def test_surrogates_in_names_can_be_shown() -> None:
    """A lone surrogate, which JSON can escape and UTF-8 cannot hold, stays an escape."""
    [detail] = refusal(b'{"context": {"\\ud800": NaN}, "candidates": []}').details
    assert detail.path == "context.\\ud800"
    json.dumps(detail.path).encode()


def test_a_body_of_too_many_values_is_refused_unread() -> None:
    """Splitting it into its parts would hold up other requests."""
    body = b'{"instances": [' + b"{}," * MAX_VALUES + b"{}]}"
    with pytest.raises(TooLarge, match="values"):
        decode(predict_decoder, body)
    fewer = b'{"instances": [' + b"{}," * 1_000 + b"{}]}"
    assert len(decode(predict_decoder, fewer).instances) == 1_001


def test_a_part_over_the_limit_is_refused_by_its_path() -> None:
    """A part of exactly the limit passes."""
    check_size(msgspec.Raw(b"12345"), 5, "instances", 2)
    with pytest.raises(TooLarge) as caught:
        check_size(msgspec.Raw(b"123456"), 5, "instances", 2)
    [detail] = caught.value.details
    assert (detail.path, detail.problem) == ("instances[2]", "over 5 bytes")
    with pytest.raises(TooLarge) as caught:
        check_size(msgspec.Raw(b"123456"), 5, "context")
    assert [d.path for d in caught.value.details] == ["context"]
