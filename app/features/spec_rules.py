"""Rules for single keys of a field beyond their types; each returns what is wrong, if anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
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


def attends_problems(fields: Sequence[Any], unread: Set[str]) -> Iterator[tuple[str, str]]:
    """Yield each field whose `attends` or `ages` cannot be, with what is wrong.

    ``unread`` are the names of fields with errors of their own, "" for one without a name.
    """
    by_name = {field.name: field for field in fields}
    lists = [field for field in fields if type(field).__struct_config__.tag == "multi_categorical"]
    used: set[str] = set()
    for field in lists:
        for key, problem_of in (("attends", _target_problem), ("ages", _ages_problem)):
            wanted = getattr(field, key)
            if wanted is None:
                continue
            if key == "attends" and field.side != "context":
                yield field.name, '`attends` is for lists with side = "context"'
            elif key == "ages" and field.attends is None:
                yield field.name, "`ages` is for lists with `attends`"
            elif wanted in by_name:
                if (problem := problem_of(field, by_name[wanted])) is not None:
                    yield field.name, f"`{key}`: {wanted!r} {problem}"
                elif key == "ages" and wanted in used:
                    yield field.name, f"`ages`: {wanted!r} has the ages of another list"
            elif unread.isdisjoint({"", wanted}):
                near = suggestion(wanted, [name for name in by_name if name != field.name])
                yield field.name, f"`{key}`: there is no field {wanted!r}{near}"
            if key == "ages":
                used.add(wanted)


def _ages_problem(field: Any, ages: Any) -> str | None:
    kind = type(ages).__struct_config__.tag
    if kind != "multi_categorical":
        return f'is of kind "{kind}"; ages are a list of kind "multi_categorical"'
    if ages.side != "context":
        return 'has side = "candidate"; ages are of the context, as what is past'
    if ages.attends is not None:
        return "attends to a field itself: it has past items, not their ages"
    return None


def _target_problem(field: Any, target: Any) -> str | None:
    kind = type(target).__struct_config__.tag
    if kind != "categorical":
        return f'is of kind "{kind}"; a list attends to a categorical field'
    if target.side != "candidate":
        return 'has side = "context"; a list attends to a field of the candidate'
    if target.dtype != field.dtype:
        return f'has dtype = "{target.dtype}" and this field "{field.dtype}"; they must be the same'
    if target.serve is not None:
        return "has `serve`: it is the same in every request, so there is nothing to attend to"
    return None


FIELD_RULES: Mapping[str, Rule] = {
    "edges": _edges_problem,
    "parts": _parts_problem,
    "timezone": _timezone_problem,
    "format": format_problem,
}
