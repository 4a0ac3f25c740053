"""Profiles are remembered for a while, within bounds."""

from __future__ import annotations

from app.profiles.memory import ENTRY_BYTES, ProfileMemory


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_old_is_asked_again() -> None:
    """Values and absences alike; a newer value starts anew, and what is old takes no room."""
    clock = Clock()
    memory = ProfileMemory(10.0, 10_000, clock)
    memory.add({"a": b"{}", "b": None})
    clock.now = 6.0
    memory.add({"a": b'{"n":1}'})
    assert memory.get(["a", "b", "c"]) == {"a": b'{"n":1}', "b": None}
    clock.now = 12.0
    assert memory.get(["a", "b"]) == {"a": b'{"n":1}'}
    memory.add({"c": None})
    assert len(memory) == 2
    clock.now = 30.0
    memory.add({})
    assert len(memory) == 0


def test_what_is_oldest_gives_way() -> None:
    """The room is bounded by bytes: long keys count too."""
    memory = ProfileMemory(10.0, 3 * ENTRY_BYTES + 100, Clock())
    memory.add(dict.fromkeys("abcd", b"x" * 20))
    assert memory.get(list("abcd")).keys() == {"b", "c", "d"}
    memory.add({"k" * 5_000: None})
    assert len(memory) == 0
    for _ in range(100):
        memory.add({"a": b"x" * 90})
    assert len(memory) == 1


def test_nothing_is_remembered_for_no_time() -> None:
    """``CTR_PROFILE_SECONDS=0`` asks each time."""
    memory = ProfileMemory(0.0, 10_000, Clock())
    memory.add({"a": b"{}"})
    assert memory.get(["a"]) == {}
    assert len(memory) == 0
