"""The values that a bundle's fields accept, as JSON Schema.

The schemas follow the rules of ``canonical`` and ``field_encoders`` as far as JSON Schema can say
them. Every value that a schema accepts is scored, except a whole number with a decimal point where
text is expected (to JSON Schema ``3.0`` is an integer), and, of a required field, other forms of a
null value and lists of nothing but null values. A few values that it rejects are scored too:
integers as text near the ends of their range, most text with an exponent, ISO 8601 text that RFC
3339 lacks, and anything after a list's last place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from app.features.canonical import (
    FLOAT32_BOUND,
    INTEGER_MAX,
    INTEGER_MIN,
    SECONDS_MAX,
    SECONDS_MIN,
)
from app.features.null_values import NullValues
from app.features.spec import (
    Categorical,
    FeatureSpec,
    Field,
    MultiCategorical,
    Numeric,
    Side,
    served_value,
)

Schema = dict[str, Any]

_INTEGER: Schema = {"type": "integer", "minimum": INTEGER_MIN, "maximum": INTEGER_MAX}
# All of 18 digits are in range, whatever their sign, and so are those of 19 without one. With an
# exponent (1e+05, as R writes) a digit times 10 to the 14th is still exact.
_INTEGER_TEXT: Schema = {
    "type": "string",
    "pattern": r"^((-?(0|[1-9][0-9]{0,17})|[1-9][0-9]{18})(\.0*)?"
    r"|-?[1-9]\.?[eE]\+?(0?[0-9]|1[0-4]))$",
}
_BOOLEAN: Schema = {"type": "boolean"}
_BOOLEAN_TEXT: Schema = {
    "type": "string",
    "pattern": "^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])$",
}
_NUMBER: Schema = {
    "type": "number",
    "exclusiveMinimum": -FLOAT32_BOUND,
    "exclusiveMaximum": FLOAT32_BOUND,
}
_SECONDS: Schema = {"type": "number", "minimum": SECONDS_MIN, "maximum": SECONDS_MAX}
_SECONDS_TEXT: Schema = {
    "type": "string",
    "pattern": r"^-?((0|[1-9][0-9]{0,9})(\.[0-9]*)?|[1-9](\.[0-9]*)?[eE][+-]?0?[0-9])$",
}
_MOMENT: Schema = {"type": "string", "format": "date-time"}
# Not a constant: generated clients refuse all other text where one form is a constant.
_EMPTY: Schema = {"type": "string", "maxLength": 0}
_NULL: Schema = {"type": "null"}


def instance(spec: FeatureSpec, closed: bool) -> Schema:
    """Return the schema of an object with the fields of both sides; ``closed``: and no others."""
    return _object({field.name: value(field) for field in spec.fields}, spec.fields, closed)


def features(spec: FeatureSpec, side: Side, closed: bool) -> Schema:
    """Return the schema of an object with the fields of one side and none of the other."""
    fields = tuple(spec.side(side))
    known = {field.name: value(field) for field in fields}
    return _object(known, fields, closed, _elsewhere(spec, side))


def columns(spec: FeatureSpec, closed: bool) -> Schema:
    """Return the schema of an object with a list for each field of the candidates."""
    fields = tuple(spec.side("candidate"))
    known = {field.name: {"type": "array", "items": value(field)} for field in fields}
    schema = _object(known, fields, closed, _elsewhere(spec, "candidate"))
    return schema if closed else {**schema, "additionalProperties": {"type": "array", "items": {}}}


def value(field: Field) -> Schema:
    """Return the schema of one field's values."""
    served = served_value(field)
    if served is not None:
        return {"description": f"Ignored: it is known in training only, and counts as {served!r}."}
    if isinstance(field, Categorical):
        forms = _values(field, needed=field.required)
    elif isinstance(field, MultiCategorical):
        # The empty text is dropped from a list where it counts as missing.
        items = [*_values(field, needed=False), *_null_texts(field)]
        forms = [{"type": "array", "items": {"anyOf": items}}]
    elif isinstance(field, Numeric):
        forms = [_NUMBER]
    elif field.format is not None:
        forms = [{"type": ["string", "integer"], "description": f"Time as {field.format}"}]
    else:
        forms = [_SECONDS, _SECONDS_TEXT, _MOMENT, *([] if field.required else [_EMPTY])]
    described = _described(field)
    if not field.required:
        return {"anyOf": [*forms, *_null_texts(field), _NULL], "description": described}
    schema: Schema = {"anyOf": forms, "description": described}
    if nulls := _null_texts(field):
        numbers = NullValues(field).numbers
        schema["not"] = {"anyOf": [*nulls, *([{"enum": numbers}] if numbers else [])]}
    return schema


def _null_texts(field: Field) -> list[Schema]:
    """Return the form of a field's null values as text, if it has any."""
    if not field.null_values:
        return []
    # A pattern, not an enumeration: generated clients refuse all other text where one form is one.
    texts = (re.sub(r"[\\^$.*+?()\[\]{}|/]", r"\\\g<0>", text) for text in field.null_values)
    return [{"type": "string", "pattern": f"^({'|'.join(texts)})$"}]


def _values(field: Categorical | MultiCategorical, needed: bool) -> list[Schema]:
    """Return the forms of one value of a vocabulary; ``needed``: none that means missing."""
    if field.dtype != "string":
        own = [_INTEGER, _INTEGER_TEXT] if field.dtype == "integer" else [_BOOLEAN, _BOOLEAN_TEXT]
        return [*own, *([_EMPTY] if field.empty_is_missing and not needed else [])]
    shortest = {"minLength": 1} if field.empty_is_missing and needed else {}
    return [{"type": "string", **shortest}, _INTEGER]


def _described(field: Field) -> str:
    kind = type(field).__struct_config__.tag
    words = {
        "categorical": "One value",
        "multi_categorical": "A list of values",
        "numeric": "A number",
        "time": "Seconds since 1970, or ISO 8601",
    }
    nulls = "".join(f", {text!r}" for text in field.null_values or ())
    absent = "required" if field.required else f"null{nulls} or absent counts as missing"
    dynamic = " It comes with each request, by id too." if field.dynamic else ""
    return f"{words[str(kind)]}; {absent}.{dynamic}"


def _elsewhere(spec: FeatureSpec, side: Side) -> list[str]:
    """Return the names of the other side's fields, which have no place here."""
    return [field.name for field in spec.fields if field.side != side]


def _object(
    properties: dict[str, Any],
    fields: tuple[Field, ...],
    closed: bool,
    excluded: Sequence[str] = (),
) -> Schema:
    needed = [field.name for field in fields if field.required and served_value(field) is None]
    schema: Schema = {"type": "object", "properties": properties}
    if needed:
        schema["required"] = needed
    if closed:
        schema["additionalProperties"] = False
    elif excluded:
        # Not as properties that are false: code generators make attributes of them, or fail.
        schema["not"] = {"anyOf": [{"required": [name]} for name in excluded]}
    return schema
