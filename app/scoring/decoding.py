"""Request bytes → the types of ``wire``, with errors that name the place in the body."""

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
"""Characters of a path in an error; a body may hold names of any length at any depth."""
MAX_DIGITS = 4_300
"""Digits of the longest integer that Python reads from text."""
MAX_STEP = 64
"""Characters of one name in a path."""
MAX_VALUES = 1_000_000
"""Values of a body, counted by its commas. Splitting it into so many rows takes about 0.1 s."""
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
        TooLarge: the body has more values than can be split while other requests wait.
        Undecodable: the body is not JSON.
        Invalid: the body is JSON, but not of the form that the endpoint takes.
    """
    # A value and its comma have at least two bytes, so shorter bodies need no counting.
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
    """Decode a part of a body: the value at ``where``, or item ``place`` of it.

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
        TooLarge: the part has more than ``most`` bytes.
    """
    if memoryview(part).nbytes > most:
        problem = f"over {most} bytes"
        raise TooLarge("a row is too large", [Detail(where + _step(place), problem)])


def _step(place: int | str | None) -> str:
    if place is None:
        return ""
    return f"[{place}]" if isinstance(place, int) else f".{place[:MAX_STEP]}"


def _explain(body: bytes, error: Exception, place: str) -> ServiceError:
    """Return the error that answers the caller for a decoder's error."""
    if isinstance(error, RecursionError):
        return Undecodable("the body is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return Undecodable("the body is not UTF-8")
    # Naming the fields takes a second, slower reading, which must not hold up other requests.
    details, total = _not_finite(body) if len(body) <= SEARCHED_BYTES else ([], 0)
    if total:
        return Invalid("a number is not finite", details, total)
    if isinstance(error, msgspec.ValidationError):
        message, _, path = str(error).partition(" - at ")
        path = f"{place}{path.strip('`').removeprefix('$')}".lstrip(".") or "body"
        return Invalid("the body has the wrong form", [Detail(path, message)])
    # The decoder's message names a byte position and never shows the body.
    return Undecodable(f"the body is not JSON: {re.sub(r'^JSON is malformed: ', '', str(error))}")


def _not_finite(body: bytes) -> tuple[list[Detail], int]:
    """Find NaN, Infinity and numbers that overflow, which some JSON writers produce.

    Returns the first few with their paths, and the number of all.
    """
    try:
        tree = json.loads(body, parse_int=_integer)
    except (ValueError, RecursionError):
        return [], 0
    details: list[Detail] = []
    total = 0
    # A loop, because json reads deeper nesting than Python's recursion limit allows.
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
    """Stand in for an integer; one with more digits than Python reads counts as an overflow."""
    return 0 if len(text) < MAX_DIGITS else math.inf


def _path(steps: list[str]) -> str:
    """Join a path and cut it to its limit; characters that UTF-8 lacks are shown as escapes."""
    path = "".join(steps).lstrip(".") or "body"
    if len(path) > MAX_PATH:
        path = f"{path[:MAX_PATH]}…"
    return path.encode("utf-8", "backslashreplace").decode()
