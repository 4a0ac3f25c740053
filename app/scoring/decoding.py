"""Request bytes → the types of ``wire``, with errors that name the place in the body."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from msgspec.inspect import ListType, LiteralType, StructType, Type, UnionType, type_info

from app.errors import Detail, Invalid, ServiceError, TooLarge, Undecodable
from app.scoring.items import Condition
from app.scoring.not_finite import MAX_STEP, SHORT_BYTES, find_not_finite
from app.scoring.wire import Candidate, PredictBody, RankBody

MAX_VALUES = 1_000_000
"""Values of a body, counted by its commas. Splitting it into so many rows takes about 0.1 s."""
_WRONG_CHOICE = "Invalid enum value"
"""The beginning of msgspec's message for a value that is none of those listed."""
UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError)
"""Errors of a decoder at a body that it cannot read."""
T = TypeVar("T")

predict_decoder = msgspec.json.Decoder(PredictBody)
instance_decoder = msgspec.json.Decoder(dict[str, Any])
candidate_decoder = msgspec.json.Decoder(Candidate)
context_decoder = msgspec.json.Decoder(dict[str, Any])
column_decoder = msgspec.json.Decoder(list[Any])
rank_decoder = msgspec.json.Decoder(RankBody)
items_decoder = msgspec.json.Decoder(list[msgspec.Raw])
item_decoder = msgspec.json.Decoder(Any)
where_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
condition_decoder: msgspec.json.Decoder[Condition] = msgspec.json.Decoder(Condition)


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
    except UNREADABLE as error:
        raise _explain(error, decoder, "", body) from None


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
    except UNREADABLE as error:
        path = where + _step(place)
        if len(body) > SHORT_BYTES:
            raise _explain(error, decoder, path, bytes(part), path) from None
        # In a short body all such numbers are named, not those of this part alone.
        raise _explain(error, decoder, path, body) from None


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


def _explain(
    error: Exception,
    decoder: msgspec.json.Decoder[T],
    place: str,
    searched: bytes,
    where: str = "",
) -> ServiceError:
    """Return the error that answers the caller for a decoder's error at ``place``.

    Numbers that are not finite are looked for in ``searched``, which is at ``where``.
    """
    if isinstance(error, RecursionError):
        return Undecodable("the body is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return Undecodable("the body is not UTF-8")
    details, total = find_not_finite(searched, where)
    if total:
        return Invalid("a number is not finite", details, total)
    if isinstance(error, msgspec.ValidationError):
        # The message of a wrong choice repeats what was sent, whatever its length.
        message, found, path = str(error).rpartition(" - at ")
        if not found:
            message, path = path, ""
        path = path.strip("`").removeprefix("$")
        if message.startswith(_WRONG_CHOICE):
            name = path.rpartition(".")[2].partition("[")[0]
            choices = sorted(_choices(type_info(decoder.type), name), key=str)
            message = f"{_WRONG_CHOICE}: expected one of {', '.join(map(repr, choices))}"
        path = f"{place}{path}".lstrip(".") or "body"
        return Invalid("the body has the wrong form", [Detail(path, message)])
    # The decoder's message names a byte position and never shows the body.
    return Undecodable(f"the body is not JSON: {re.sub(r'^JSON is malformed: ', '', str(error))}")


def _choices(kind: Type, name: str, own: bool = False) -> Iterator[object]:
    """Yield the values that a field may have, of all fields of that name; ``own`` is within one."""
    if isinstance(kind, LiteralType):
        yield from kind.values if own else ()
    elif isinstance(kind, StructType):
        for field in kind.fields:
            yield from _choices(field.type, name, field.encode_name == name)
    elif isinstance(kind, UnionType):
        for each in kind.types:
            yield from _choices(each, name, own)
    elif isinstance(kind, ListType):
        yield from _choices(kind.item_type, name, own)
