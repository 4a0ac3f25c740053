"""A table of a feature spec → values of a struct's keys; every error of the table is noted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from app.features.nearest import suggestion
from app.features.spec_rules import Rule

_SHOWN = 60
"""Characters of a wrong value that a message shows."""


class SpecTables:
    """Reads tables; ``errors`` has one line for each that was found."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def read(
        self,
        kind: type[msgspec.Struct],
        table: Mapping[str, Any],
        place: str = "",
        rules: Mapping[str, Rule] | None = None,
        inner: Mapping[str, Callable[[Any], Any]] | None = None,
        elsewhere: Callable[[str], str | None] = lambda key: None,
    ) -> dict[str, Any]:
        """Return the values of the keys that are right, converted to the types of ``kind``.

        ``rules`` has further rules of single keys, ``inner`` the readers of keys that hold
        tables. ``elsewhere`` says of an unknown key where it belongs, if it is known there.
        """
        members = _members(kind)
        tag = kind.__struct_config__.tag_field
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key == tag:
                continue
            if key not in members:
                known = [*filter(None, [tag]), *members]
                hint = elsewhere(key) or suggestion(key, known) or f"; allowed: {', '.join(known)}"
                self.add(place, f"unknown key {key!r}{hint}")
            elif inner is not None and key in inner:
                values[key] = inner[key](value)
            elif problem := _type_problem(members[key].type, value):
                self.add(place, f"`{key}` {problem}")
            else:
                converted = msgspec.convert(value, members[key].type)
                problem = rules[key](converted) if rules and key in rules else None
                if problem is None:
                    values[key] = converted
                else:
                    self.add(place, f"`{key}` {problem}")
        for key, member in members.items():
            if member.required and key not in table:
                self.add(place, f"`{key}` is missing; it is {described(member.type)}")
        return values

    def entries(self, key: str, value: object) -> list[dict[str, Any]]:
        """Return the tables of a list of tables, ``[[key]]``."""
        if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
            return value
        hint = f"; write [[{key}]], not [{key}]" if isinstance(value, dict) else ""
        self.add("", f"`{key}` must be a list of tables, [[{key}]], got {shown(value)}{hint}")
        return []

    def add(self, place: str, problem: str) -> None:
        """Note an error of a place, such as ``field 'price'``; empty is the top of the file."""
        self.errors.append(f"{place}: {problem}" if place else problem)


@cache
def _members(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {member.name: member for member in msgspec.structs.fields(kind)}


def described(kind: Any) -> str:
    """Return the values that a type allows, in words: ``an integer from 1 to 256``."""
    return _in_words(inspect.type_info(kind))


def shown(value: object) -> str:
    """Return a wrong value as a message shows it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _type_problem(kind: Any, value: object) -> str | None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        info = inspect.type_info(kind)
        allowed = _choices(info)
        items = value if isinstance(value, list) else [value]
        wrong = [item for item in items if isinstance(item, str) and item not in allowed]
        hint = suggestion(wrong[0], allowed) if wrong else ""
        return f"must be {_in_words(info)}, got {shown(value)}{hint}"
    return None


def _choices(info: inspect.Type) -> list[str]:
    """Return the texts that a type, or an item of a list of it, is limited to."""
    match info:
        case inspect.LiteralType():
            return list(map(str, info.values))
        case inspect.VarTupleType():
            return _choices(info.item_type)
        case _:
            return []


def _in_words(info: inspect.Type) -> str:
    match info:
        case inspect.LiteralType():
            return f"one of {', '.join(map(repr, info.values))}"
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"an integer{_range(info)}"
        case inspect.FloatType():
            return f"a number{_range(info)}"
        case inspect.StrType():
            return "text" if not info.min_length else "text that is not empty"
        case inspect.VarTupleType():
            item = _in_words(info.item_type)
            if item == "a table":
                return "a list of tables"
            least = " that is not empty" if info.min_length else ""
            return f"a list{least}, each item {item}"
        case inspect.TupleType():
            return f"a list of {len(info.item_types)}, each item {_in_words(info.item_types[0])}"
        case inspect.UnionType():
            kinds = [each for each in info.types if not isinstance(each, inspect.NoneType)]
            return " or ".join(dict.fromkeys(map(_in_words, kinds)))
        case _:
            return "a table"


def _range(info: inspect.IntType | inspect.FloatType) -> str:
    if info.ge is not None and info.le is not None:
        return f" from {info.ge:,} to {info.le:,}"
    bounds = [
        ("above", info.gt),
        ("of at least", info.ge),
        ("below", info.lt),
        ("at most", info.le),
    ]
    given = [f"{word} {bound:,}" for word, bound in bounds if bound is not None]
    return f" {' and '.join(given)}" if given else ""
