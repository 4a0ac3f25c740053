"""A pytest plugin: files of which a run takes no test are not imported.

A file says so in one line, ``pytestmark = pytest.mark.slow``. Importing the others' modules, and
rewriting their assertions, takes more of a quick run than its tests.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ELSEWHERE = ("long", "extras")
"""Markers of tests that other scripts run: ``scripts/test-faults`` and ``scripts/test-extras``."""
_OF_ALL = re.compile(r"^pytestmark = (.*pytest\.mark\..*)$", re.MULTILINE)
_MARKER = re.compile(r"pytest\.mark\.(\w+)")
_WITHOUT = re.compile(r"not (\w+)")


def elsewhere(expression: str) -> list[str]:
    """Return the markers that leave a test out of a run unless its ``-m`` names them."""
    return [name for name in ELSEWHERE if name not in expression]


def leaving_out(expression: str) -> set[str]:
    """Return the markers that leave a test out of a run with ``-m``, whatever else it has."""
    terms = [_WITHOUT.fullmatch(term) for term in expression.split(" and ")]
    named = {term[1] for term in terms if term} if all(terms) else set()
    return named.union(elsewhere(expression))


def markers_of_all(code: str) -> set[str]:
    """Return the markers that every test of a file has."""
    return {name for line in _OF_ALL.findall(code) for name in _MARKER.findall(line)}


def left_out(file: Path, config: pytest.Config) -> bool:
    """Return whether a run leaves out all tests of a file."""
    markers = markers_of_all(file.read_text(encoding="utf-8"))
    return not markers.isdisjoint(leaving_out(config.option.markexpr))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out a file all of whose tests would be left out."""
    if not (collection_path.name.startswith("test_") and collection_path.suffix == ".py"):
        return None
    return left_out(collection_path, config) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what other scripts run."""
    names = elsewhere(config.option.markexpr)
    left_out = [item for item in items if any(map(item.get_closest_marker, names))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
