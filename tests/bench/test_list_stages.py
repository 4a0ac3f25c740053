"""Stages of a list follow each other without a gap, whatever runs beside them."""

from __future__ import annotations

import pytest

from tests.bench.list_stages import Event, requests_of, stages_of

LIST = [
    Event("data_received", 0, 2), Event("data_received", 3, 20), Event("begin", 5, 20),
    Event("read", 5, 9), Event("submit", 14, 15), Event("run", 16, 30), Event("submit", 18, 19),
    Event("_finish", 31, 33), Event("run", 32, 50), Event("_finish", 52, 60),
    Event("scored", 53, 59),
]  # fmt: skip


def test_stages_add_up_to_the_answer() -> None:
    """Runs of the engine count once, and what is encoded beside them not at all."""
    stages = stages_of(LIST)
    assert stages == [5, 4, 5, 2, 32, 2, 2, 7]
    assert sum(stages) == 59


def test_a_run_on_the_event_loop_is_followed_by_its_answer() -> None:
    """There is no way back to the loop then."""
    inline = [
        Event("data_received", 0, 40), Event("begin", 1, 40), Event("read", 1, 5),
        Event("submit", 9, 40), Event("run", 10, 30), Event("_finish", 30.5, 40),
        Event("scored", 31, 39),
    ]  # fmt: skip
    assert stages_of(inline) == pytest.approx([1, 4, 4, 1, 20, 0, 0.5, 8.5])


def test_events_belong_to_one_request_after_the_other() -> None:
    """A request begins with the first bytes after an answer; events come in any order."""
    later = [Event(name, start + 100, end + 100) for name, start, end in LIST]
    both = [*reversed(later), *LIST]
    assert [len(each) for each in requests_of(both)] == [len(LIST), len(LIST)]
    assert [stages_of(each) for each in requests_of(both)] == [stages_of(LIST)] * 2
