"""The benchmark of the hand-over scores in the other process what it scores in its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import handover

pytestmark = pytest.mark.slow


def test_each_way_gives_the_scores(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It compares them itself; each number of rows has its figures."""
    monkeypatch.setattr(handover, "RUNS", 10)
    found = handover.measure(tiny_bundle)
    assert list(found) == [f"{rows} rows" for rows in handover.ROWS]
    for figures in found.values():
        assert all(figures[name] > 0 for name in figures if name != "hand_over_us")
