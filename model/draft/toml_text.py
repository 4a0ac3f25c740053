"""A spec and what was noticed → the text of a commented TOML file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from app.features.spec import FeatureSpec, Field

_SHOWN = 24
"""Characters of a value that a comment shows."""


def quoted(value: Any) -> str:
    """Return a value as TOML has it: text, a number, a boolean or a list of these."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(quoted, value))}]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    # JSON's escapes are TOML's, but that TOML has no DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def in_comment(value: Any, most: int = _SHOWN) -> str:
    """Return a value as a comment shows it: on one line, and cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def comment(lines: Sequence[str]) -> Iterator[str]:
    """Yield lines as comments."""
    for line in lines:
        yield f"# {line}".rstrip()


def top(spec: FeatureSpec, comments: Mapping[str, str]) -> Iterator[str]:
    """Yield the keys above the fields; ``comments`` has some of the keys' own."""
    for key in ("label", "timestamp", "timestamp_format", "columns", "delimiter"):
        value = getattr(spec, key)
        if value is not None:
            after = f"  # {comments[key]}" if key in comments else ""
            yield f"{key} = {quoted(value)}{after}"


def field_table(field: Field, comments: Mapping[str, str]) -> Iterator[str]:
    """Yield a field's table: name, kind, side, then each key that is not as by default."""
    yield "[[fields]]"
    values = {"name": field.name, "kind": field.__struct_config__.tag, "side": field.side}
    for member in msgspec.structs.fields(type(field)):
        value = getattr(field, member.name)
        if member.name not in values and value != member.default:
            values[member.name] = value
    for key, value in values.items():
        after = f"  # {comments[key]}" if key in comments else ""
        yield f"{key} = {quoted(value)}{after}"
