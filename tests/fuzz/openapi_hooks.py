"""Hooks of schemathesis: two rules for bodies that JSON Schema has no words for."""

from __future__ import annotations

from typing import Any

import schemathesis


def whole_numbers(value: Any) -> Any:
    """Write ``3.0`` as ``3``: to JSON Schema they are one integer, to the service only the second
    is text of a string field, an id or a ``top_k``.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    return value


def equal_columns(body: Any) -> None:
    """Fill the columns of a candidate list up to the longest: they must be equally long."""
    candidates = body.get("candidates") if isinstance(body, dict) else None
    if not isinstance(candidates, dict) or not isinstance(candidates.get("features"), dict):
        return
    columns = [*candidates["features"].values()]
    if candidates.get("id") is not None:
        columns.append(candidates["id"])
    if all(isinstance(column, list) for column in columns):
        longest = max(map(len, columns), default=0)
        for column in columns:
            column += [None] * (longest - len(column))


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Change a generated body so that it keeps both rules."""
    body = whole_numbers(body)
    equal_columns(body)
    return body


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: Any) -> None:
    """Keep the rule of columns where a body comes from the schema's boundaries, without a hook."""
    equal_columns(case.body)
