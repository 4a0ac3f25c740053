"""msgspec's decoders are made when a module is imported."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def decoding_by_type(text: str) -> list[int]:
    """Return the lines of calls of ``decode`` that are given a type."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "decode"
        and any(keyword.arg == "type" for keyword in node.keywords)
        and not (isinstance(node.func.value, ast.Attribute) and node.func.value.attr == "msgpack")
    ]


def test_no_type_is_looked_at_for_the_first_time_by_a_request_or_a_thread() -> None:
    """msgspec describes a Struct when it is first decoded, and threads that meet there crash.

    So a module of the service makes its decoders as it is imported. (The workers' shared numbers
    are a dict of numbers, with no Struct.)
    """
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "app").rglob("*.py"))
        for line in decoding_by_type(path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_such_calls_are_found() -> None:
    """With a type, as a method of anything; not without."""
    assert decoding_by_type("msgspec.json.decode(a, type=B)\ndecode(a)\nx.decode(a)\n") == [1]
