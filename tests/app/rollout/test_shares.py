"""Whose requests a canary answers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from app.features.keys import text_key
from app.features.spec import FeatureSpec
from app.rollout.shares import KeyReader, Shares
from tests.support.samples import SPEC

USERS = [str(number) for number in range(100_000)]
VERSION, NEXT = "20261129T010203Z-0123456789ab", "20261130T010203Z-0123456789ab"


@pytest.mark.parametrize("prefix", ["", "user-", "-" * 200])
def test_a_share_of_five_percent_is_one(prefix: str) -> None:
    """Within 0.3 points over 100,000 users, whatever their ids look like."""
    takes = Shares(VERSION, 0.05).takes
    assert sum(takes(prefix + user) for user in USERS) / len(USERS) == pytest.approx(0.05, abs=3e-3)


def test_a_larger_share_only_moves_users_in() -> None:
    taken: set[str] = set()
    for share in (1e-4, 0.05, 0.051, 0.5, 1.0):
        more = set(filter(Shares(VERSION, share).takes, USERS))
        assert taken < more
        taken = more
    assert len(taken) == len(USERS)


def test_the_next_canary_has_other_users() -> None:
    """Nobody is the one who always tries what is new."""
    one, two = (set(filter(Shares(each, 0.05).takes, USERS)) for each in (VERSION, NEXT))
    assert len(one & two) / len(USERS) == pytest.approx(0.05**2, abs=5e-4)


def test_every_process_comes_to_the_same_side() -> None:
    """No hash of Python's own decides, which differs from process to process."""
    texts = [*USERS[:200], "é", "\ud800", ""]
    code = (
        "import json, sys; from app.rollout.shares import Shares;"
        f"print([Shares({VERSION!r}, 0.5).takes(each) for each in json.load(sys.stdin)])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(texts), capture_output=True, text=True,
        check=True, env={"PYTHONHASHSEED": "7"},
    ).stdout  # fmt: skip
    assert told.strip() == str([Shares(VERSION, 0.5).takes(each) for each in texts])


@pytest.mark.parametrize("value", ["12345", '"12345"', "12345.0", '"12345.0"', "1.2345e4"])
def test_a_value_has_one_side_in_every_spelling(value: str) -> None:
    keys = KeyReader("user_id", text_key(FeatureSpec.parse(SPEC), "user_id"))
    body = f'{{"context": {{"age": 3, "user_id": {value}}}, "candidates": [{{"features": {{}}}}]}}'
    assert keys.of_context(body.encode()) == "12345"
    body = f'{{"instances": [{{"user_id": {value}, "x": [{{}}]}}, {{}}]}}'
    assert keys.of_instances(body.encode()) == ["12345", None]


@pytest.mark.parametrize("value", ["null", '""', '"\\\\N"', '"abc"', "[]", "{}", "true", "1.5"])
def test_what_is_no_value_has_no_key(value: str) -> None:
    keys = KeyReader("user_id", text_key(FeatureSpec.parse(SPEC), "user_id"))
    assert keys.of_context(f'{{"context": {{"user_id": {value}}}}}'.encode()) is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"context": 3}', b"\xff", b"[" * 9999])
def test_a_body_that_cannot_be_read_has_no_key(body: bytes) -> None:
    """Whoever scores it says what is wrong."""
    keys = KeyReader("user_id", str)
    assert keys.of_context(body) is None
    assert keys.of_instances(body) == []


def test_a_field_that_no_struct_can_have_is_no_key() -> None:
    with pytest.raises(ValueError, match="must not contain"):
        KeyReader('a"b', str)
