"""What was given up is free when no request from before that is left."""

from __future__ import annotations

from app.catalogue.leases import Leases


def test_a_thing_is_free_once_all_who_may_know_it_are_done() -> None:
    """A lease keeps what is given up after it, and nothing that was given up before."""
    leases: Leases[str] = Leases()
    leases.give_up("a")
    first = leases.lease()
    leases.give_up("b")
    leases.give_up("c")
    second = leases.lease()
    assert second is not first
    assert leases.lease() is second
    leases.give_up("d")
    assert leases.freed() == ["a"]
    del second
    assert leases.freed() == [], "the first lease may know all that followed"
    del first
    assert leases.freed() == ["b", "c", "d"]
    assert leases.freed() == []
    leases.give_up("e")
    assert leases.freed() == ["e"]
