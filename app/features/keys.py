"""The text of a key, by which stored values are found.

One function makes it wherever a key is written or asked for, so that 7, ``"7"`` and ``7.0`` of an
integer field name the same entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.errors import ValueProblem
from app.features.canonical import KEYS, string_key
from app.features.null_values import null_values_of
from app.features.spec import Categorical, FeatureSpec

TextKey = Callable[[Any], str | None]


def text_key(spec: FeatureSpec, field: str) -> TextKey:
    """Return the function that turns a value of a field into the text of its key.

    The text is None for a value that is missing, or that no key can be. A field that the spec does
    not know takes integers and text.
    """
    known = next((each for each in spec.fields if each.name == field), None)
    canonical = KEYS[known.dtype] if isinstance(known, Categorical) else plain_key
    nulls = () if known is None else null_values_of(known)

    def key(value: Any) -> str | None:
        if value is None or value == "" or value in nulls:
            return None
        try:
            return str(canonical(value))
        except ValueProblem:
            return None

    return key


def plain_key(value: Any) -> str:
    """Return the text of an integer or of text.

    Raises:
        ValueProblem: it is anything else.
    """
    return string_key(int(value) if type(value) is float and value.is_integer() else value)
