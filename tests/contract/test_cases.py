"""tests/cases.md names every case, and only tests, scenarios and scripts that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from tests.drills.faults.playing import SCENARIOS

TESTS = Path(__file__).resolve().parents[1]
ROWS = re.findall(r"^\| (OPEN-\d\d) \| .+? \| (.+) \|$", (TESTS / "cases.md").read_text(), re.M)
OTHERS = re.findall(
    r"^\| ([^|]+) \| [^|]+ \| (.+) \|$",
    (TESTS / "cases.md").read_text().partition("## Other faults")[2],
    re.M,
)[1:]


@cache
def functions_of(file: str) -> set[str]:
    """Return the names of a file's functions."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in tree.body if isinstance(node, functions)}


def test_every_case_has_its_row() -> None:
    """The thirty cases, each once, in their order."""
    assert [case for case, _ in ROWS] == [f"OPEN-{number:02d}" for number in range(1, 31)]


def test_what_is_named_exists() -> None:
    """A renamed test would leave its case without one."""
    missing = []
    assert len(OTHERS) > 10
    for case, shown in [*ROWS, *OTHERS]:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", shown)
        scenarios = re.findall(r"faults `([\w-]+)`", shown)
        scripts = re.findall(r"`(scripts/[\w-]+)`", shown)
        assert named or scenarios or scripts, case
        missing += [f"{case}: {name}" for name in scripts if not (TESTS.parent / name).is_file()]
        for file, name in named:
            if name not in functions_of(file):
                missing.append(f"{case}: {file}::{name}")
        missing += [f"{case}: {name}" for name in scenarios if name not in SCENARIOS]
    assert not missing
