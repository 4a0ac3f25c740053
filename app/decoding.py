"""Request bytes → wire structs, with an error that says where the body is wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from app.errors import Detail, Invalid, ServiceError, Undecodable
from app.schemas import PredictBody, RankBody

MAX_DETAILS = 10
Body = TypeVar("Body", PredictBody, RankBody)

predict_decoder = msgspec.json.Decoder(PredictBody)
rank_decoder = msgspec.json.Decoder(RankBody)


def decode(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """Decode a body.

    Raises:
        Undecodable: it is not JSON.
        Invalid: it is JSON of another form than the endpoint's.
    """
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise _explain(body, error) from None


def _explain(body: bytes, error: Exception) -> ServiceError:
    """Turn a decoder's error into an answer; only bad bodies come here, so it may be slow."""
    if isinstance(error, RecursionError):
        return Undecodable("the body is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return Undecodable("the body is not UTF-8")
    if details := list(_not_finite(body)):
        return Invalid("a number is not finite", details[:MAX_DETAILS], len(details))
    if isinstance(error, msgspec.ValidationError):
        message, _, path = str(error).partition(" - at ")
        path = path.strip("`").removeprefix("$").lstrip(".") or "body"
        return Invalid("the body has the wrong form", [Detail(path, message)])
    # The decoder's own words name a byte position and never show the body.
    return Undecodable(f"the body is not JSON: {re.sub(r'^JSON is malformed: ', '', str(error))}")


def _not_finite(body: bytes) -> Iterator[Detail]:
    """Find NaN, Infinity and numbers that overflow, which some JSON writers produce."""
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        return
    yield from _walk(tree, "")


def _walk(value: Any, path: str) -> Iterator[Detail]:
    if isinstance(value, float):
        if not math.isfinite(value):
            yield Detail(path or "body", "number is not finite")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, f"{path}.{key[:64]}" if path else key[:64])
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _walk(item, f"{path}[{number}]")
