"""The keys ``serve`` and ``dynamic`` of a drafted spec: a person knows them, the data do not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from app.errors import ValueProblem
from app.features.canonical import INTEGER_TEXT, NUMBER_TEXT, integer_key
from app.features.spec import Categorical, Field, Numeric
from app.features.spec_rules import serve_problem
from model.data.errors import DataError
from model.draft.column import Column

MOST_DIGITS = 32
"""Digits of a number, above which it is none that a field has."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The fields that are known in training only, and those that depend on the moment."""

    serve: Mapping[str, str] = field(default_factory=dict)
    """The text of the value that every request counts as having."""
    dynamic: Collection[str] = ()

    @classmethod
    def of(cls, serve: Sequence[str], dynamic: Collection[str]) -> Serving:
        """Read ``FIELD=VALUE`` of each field of ``serve``.

        Raises:
            DataError: one is not of this form, or a field is named twice.
        """
        found: dict[str, str] = {}
        for given in serve:
            name, equals, value = given.partition("=")
            name = name.strip()
            if not equals or not name:
                raise DataError(f"--serve: expected FIELD=VALUE, such as position=1, got {given!r}")
            if name in found:
                raise DataError(f"--serve: {name!r} is given more than once")
            if name in dynamic:
                raise DataError(
                    f"{name!r} is named by --serve and by --dynamic: it has one value in every"
                    " request, or one of the moment"
                )
            found[name] = value.strip()
        return cls(found, dynamic)

    def marked(self, given: Field) -> Field:
        """Return a field with what is known of it.

        Raises:
            DataError: it cannot have the value of ``serve``.
        """
        if given.name in self.dynamic:
            return replace(given, dynamic=True)
        if given.name in self.serve:
            return replace(given, serve=_value(given, self.serve[given.name]))
        return given


def is_seen(given: Field, column: Column) -> bool:
    """Tell whether a row has the value that requests count as having, if they have one."""
    if not isinstance(given, Categorical) or given.serve is None:
        return True
    values = column.without(given.null_values or ())
    try:
        if given.dtype == "integer":
            return integer_key(given.serve) in {integer_key(value) for value in values}
    except ValueProblem:
        return True
    return str(given.serve).lower() in {str(value).lower() for value in values}


def _value(given: Field, text: str) -> Any:
    if not isinstance(given, Categorical | Numeric):
        kind = given.__struct_config__.tag
        raise DataError(
            f"--serve: {given.name!r} is of kind {kind!r}; categorical and numeric fields can have"
            " one value in every request"
        )
    numeric = isinstance(given, Numeric)
    dtype = given.dtype if isinstance(given, Categorical) else ""
    value: Any = text
    if dtype == "boolean" and text.lower() in ("true", "false"):
        value = text.lower() == "true"
    elif (numeric or dtype == "integer") and len(text) <= MOST_DIGITS:
        if INTEGER_TEXT.fullmatch(text):
            value = int(text)
        elif numeric and NUMBER_TEXT.fullmatch(text):
            value = float(text)
    named = {"serve": value, **({"dtype": dtype} if dtype else {})}
    if (problem := serve_problem(named, numeric)) is not None:
        raise DataError(f"--serve: field {given.name!r}: {problem}")
    return value
