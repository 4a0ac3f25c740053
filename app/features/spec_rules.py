"""Rules for single keys of a field beyond their types; each returns what is wrong, if anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from app.features.nearest import suggestion

Rule = Callable[[Any], str | None]
FLOAT32_LIMIT = 3.4e38
_WHOLE = re.compile("-?(0|[1-9][0-9]{0,17})")


def _edges_problem(edges: Sequence[float]) -> str | None:
    for low, high in pairwise(edges):
        if not low < high:
            return f"must increase, but {low} is before {high}"
    if any(not abs(edge) < 3.4e38 for edge in edges):
        return "must be finite float32 numbers"
    return None


def _parts_problem(parts: Sequence[str]) -> str | None:
    return None if len(set(parts)) == len(parts) else "has a part twice"


def _timezone_problem(name: str) -> str | None:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return f"is unknown: {name!r}{suggestion(name, available_timezones())}"
    return None


def format_problem(text: str | None) -> str | None:
    """Return why a time format cannot be used, if it cannot."""
    if text is None:
        return None
    if "Z" in re.findall("%(.)", text):
        return (
            "has `%Z`, but names of time zones cannot be read; use `%z` for offsets such as +0200,"
            " or write the name as text and give `timezone`"
        )
    moment = datetime(2014, 10, 21, 13, tzinfo=UTC)
    try:
        if datetime.strptime(moment.strftime(text), text).year != 2014:
            raise ValueError("it has no year")
    except ValueError as error:
        return f"cannot be read back: {error}"
    return None


def delimiter_problem(text: str | None) -> str | None:
    """Return why a delimiter cannot be used, if it cannot."""
    if text is not None and set(text) & set('"\r\n'):
        return "must not have a quote or a line end"
    return None


def serve_problem(values: Mapping[str, Any], numeric: bool) -> str | None:
    """Return why the value of a field in serving cannot be one, if it cannot."""
    value = values.get("serve")
    if value is None:
        return None
    if values.get("dynamic"):
        return "a field with `serve` has the same value in every request: it cannot be `dynamic`"
    kind = type(value)
    dtype = "a number" if numeric else values.get("dtype", "string")
    fits = {
        "a number": kind in (int, float) and abs(value) < FLOAT32_LIMIT,
        "integer": (kind is int and -(2**63) <= value < 2**64)
        or (kind is str and _WHOLE.fullmatch(value) is not None),
        "string": kind is str or kind is int,
        "boolean": kind is bool or (kind is str and value.lower() in ("true", "false")),
    }
    if fits[dtype]:
        return None
    return f"`serve` must be {dtype if numeric else f'a value of type {dtype}'}, got {value!r}"


FIELD_RULES: Mapping[str, Rule] = {
    "edges": _edges_problem,
    "parts": _parts_problem,
    "timezone": _timezone_problem,
    "format": format_problem,
}
