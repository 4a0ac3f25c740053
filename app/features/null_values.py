"""Values that a field's ``null_values`` make missing, as text and in every other form."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from app.errors import ValueProblem
from app.features.canonical import KEYS, number_key, seconds
from app.features.spec import Field, Numeric, Time

_INTEGER = re.compile("0|-?[1-9][0-9]{0,19}", re.ASCII)


class NullValues:
    """The null values of a field: ``value in nulls`` tells whether a raw value is one of them.

    The spec names them as text. A value that the field's rules take for the same as such a text
    is a null value too: with ``"-1"``, -1 and -1.0 of an integer field.
    """

    def __init__(self, field: Field) -> None:
        texts = field.null_values or ()
        self._key = _key_of(field)
        self.keys = frozenset(map(self._canonical, texts)) - {None}
        """Canonical keys of the null values that the field's rules can read."""
        self._forms = frozenset(texts) | {int(text) for text in texts if _INTEGER.fullmatch(text)}

    @property
    def numbers(self) -> list[int | float]:
        """The null values that are numbers in JSON, in rising order."""
        return sorted(form for form in self._forms | self.keys if not isinstance(form, str))

    def __contains__(self, value: Any) -> bool:
        # True == 1, so a set of integers would take booleans too.
        if type(value) in (str, int) and value in self._forms:
            return True
        return bool(self.keys) and self._canonical(value) in self.keys

    def _canonical(self, value: Any) -> Any:
        try:
            return self._key(value)
        except ValueProblem:
            return None


def null_values_of(field: Field) -> NullValues | tuple[()]:
    """Return a field's null values; of a field without any an empty tuple, which is faster."""
    return NullValues(field) if field.null_values else ()


def _key_of(field: Field) -> Callable[[Any], Any]:
    if isinstance(field, Numeric):
        return number_key
    if isinstance(field, Time):
        return partial(seconds, zone=ZoneInfo(field.timezone), text_format=field.format)
    return KEYS[field.dtype]
