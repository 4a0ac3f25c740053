"""This process runs blocks one after the other, as they are asked for."""

from __future__ import annotations

import pytest

from model.cluster.places import ThisProcess


def test_blocks_run_when_their_result_is_asked_for() -> None:
    """In their order; an error is that of the first block that has one."""
    ran: list[int] = []

    def half(block: int) -> float:
        ran.append(block)
        return 1 / block

    results = ThisProcess().map(half, iter([2, 4, 0, 8]))
    assert next(results) == 0.5
    assert ran == [2]
    assert next(results) == 0.25
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert ran == [2, 4, 0]
