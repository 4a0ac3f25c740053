"""Docstrings say what a thing is, or what it does, from their first word on."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUESTION = re.compile(r"(What|How|Whether|Which|Who|When|Where|Why)\b")


def notes(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of texts that stand alone: docstrings, and those below a name."""
    for node in ast.walk(ast.parse(text)):
        for each in node.body if isinstance(getattr(node, "body", None), list) else ():
            if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
                yield each.lineno, str(each.value.value)


def test_no_docstring_begins_with_a_question() -> None:
    """\"How long a worker waits\" has no unit; \"Seconds that a worker waits\" has one."""
    found = []
    for path in sorted(each for name in ("app", "model") for each in (ROOT / name).rglob("*.py")):
        for line, note in notes(path.read_text(encoding="utf-8")):
            if QUESTION.match(note):
                found.append(f"{path.relative_to(ROOT)}:{line}: {note.splitlines()[0]}")
    assert found == []


def test_questions_are_found() -> None:
    """In modules, functions and below names."""
    text = '"""What it is."""\nA = 1\n"""How much."""\ndef f():\n    """Whether."""\n'
    assert [line for line, note in notes(text) if QUESTION.match(note)] == [1, 3, 5]
