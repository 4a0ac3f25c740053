"""Request bytes → wire structs, with an error that says where the body is wrong."""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar

import msgspec

from app.errors import Detail, Invalid, ServiceError, TooLarge, Undecodable
from app.scoring.wire import Candidate, PredictBody, RankBody

MAX_DETAILS = 10
SEARCHED_BYTES = 256 * 1024
MAX_PATH = 256
"""Characters of a path that are shown; a body may hold names of any length at any depth."""
MAX_DIGITS = 4_300
"""Digits of an integer that the decoder reads; Python's own limit."""
MAX_STEP = 64
"""Characters of one name in a path."""
MAX_VALUES = 1_000_000
"""Values of a body, told by its commas: to cut it into so many rows takes some 0.1 s."""
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError)
T = TypeVar("T")

predict_decoder = msgspec.json.Decoder(PredictBody)
instance_decoder = msgspec.json.Decoder(dict[str, Any])
rank_decoder = msgspec.json.Decoder(RankBody)
candidate_decoder = msgspec.json.Decoder(Candidate)
context_decoder = msgspec.json.Decoder(dict[str, Any])
column_decoder = msgspec.json.Decoder(list[Any])
items_decoder = msgspec.json.Decoder(list[msgspec.Raw])
item_decoder = msgspec.json.Decoder(Any)


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a body.

    Raises:
        TooLarge: it has more values than can be looked at while others wait.
        Undecodable: it is not JSON.
        Invalid: it is JSON of another form than the endpoint's.
    """
    # None that is shorter can hold so many.
    if len(body) > 2 * MAX_VALUES and body.count(b",") >= MAX_VALUES:
        raise TooLarge(f"the body has more than {MAX_VALUES} values")
    try:
        return decoder.decode(body)
    except _UNREADABLE as error:
        raise _explain(body, error, "") from None


def decode_part(
    decoder: msgspec.json.Decoder[T],
    body: bytes,
    part: msgspec.Raw,
    where: str,
    place: int | str | None = None,
) -> T:
    """Decode a part of a body: what is at ``where``, or the item ``place`` of that.

    Raises:
        Undecodable, Invalid: as :func:`decode`.
    """
    try:
        return decoder.decode(part)
    except _UNREADABLE as error:
        raise _explain(body, error, where + _step(place)) from None


def check_size(part: msgspec.Raw, most: int, where: str, place: int | str | None = None) -> None:
    """Refuse a part of a body that is too long to be decoded in one go.

    Raises:
        TooLarge: it has more than ``most`` bytes.
    """
    if memoryview(part).nbytes > most:
        problem = f"over {most} bytes"
        raise TooLarge("a row is too large", [Detail(where + _step(place), problem)])


def _step(place: int | str | None) -> str:
    if place is None:
        return ""
    return f"[{place}]" if isinstance(place, int) else f".{place[:MAX_STEP]}"


def _explain(body: bytes, error: Exception, place: str) -> ServiceError:
    """Turn a decoder's error into an answer."""
    if isinstance(error, RecursionError):
        return Undecodable("the body is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return Undecodable("the body is not UTF-8")
    # Naming the fields takes a second, slower reading, which may not hold up other requests.
    details, total = _not_finite(body) if len(body) <= SEARCHED_BYTES else ([], 0)
    if total:
        return Invalid("a number is not finite", details, total)
    if isinstance(error, msgspec.ValidationError):
        message, _, path = str(error).partition(" - at ")
        path = f"{place}{path.strip('`').removeprefix('$')}".lstrip(".") or "body"
        return Invalid("the body has the wrong form", [Detail(path, message)])
    # The decoder's own words name a byte position and never show the body.
    return Undecodable(f"the body is not JSON: {re.sub(r'^JSON is malformed: ', '', str(error))}")


def _not_finite(body: bytes) -> tuple[list[Detail], int]:
    """Find NaN, Infinity and numbers that overflow, which some JSON writers produce.

    Returns the first few with their paths, and how many there are.
    """
    try:
        tree = json.loads(body, parse_int=_integer)
    except (ValueError, RecursionError):
        return [], 0
    details: list[Detail] = []
    total = 0
    # A loop, not recursion: what json can read may be nested more deeply than Python can call.
    path: list[str] = []
    open_items = [iter([("", tree)])]
    while open_items:
        for step, value in open_items[-1]:
            if isinstance(value, float):
                if not math.isfinite(value):
                    total += 1
                    if len(details) < MAX_DETAILS:
                        details.append(Detail(_path([*path, step]), "number is not finite"))
            elif isinstance(value, dict):
                path.append(step)
                open_items.append((f".{key[:MAX_STEP]}", item) for key, item in value.items())
                break
            elif isinstance(value, list):
                path.append(step)
                open_items.append((f"[{number}]", item) for number, item in enumerate(value))
                break
        else:
            open_items.pop()
            if path:
                path.pop()
    return details, total


def _integer(text: str) -> float:
    """A whole number; one with more digits than Python reads counts as one that overflows."""
    return 0 if len(text) < MAX_DIGITS else math.inf


def _path(steps: list[str]) -> str:
    """Write a path, cut where it is long; what UTF-8 cannot hold is shown as its escape."""
    path = "".join(steps).lstrip(".") or "body"
    if len(path) > MAX_PATH:
        path = f"{path[:MAX_PATH]}…"
    return path.encode("utf-8", "backslashreplace").decode()
