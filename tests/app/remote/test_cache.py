"""The cache is bounded, and asking it costs no more than asking a dict."""

from __future__ import annotations

import pytest

from app.remote.cache import EVICTED_TOGETHER, Cache


def filled(limit: int, **counts: int) -> Cache:
    """A cache with so many keys in each slot, put in ascending order."""
    cache = Cache(counts, limit)
    for slot, count in counts.items():
        cache.tables[slot].update({key: key + 3 for key in range(count)})
    return cache


def test_up_to_the_bound_everything_stays() -> None:
    """Nothing is thrown out while there is room."""
    cache = filled(30, a=10, b=20)
    cache.trim()
    assert (cache.entries, cache.evicted) == (30, 0)


@pytest.mark.parametrize("limit", [1, 2, 7, 100, 1_000, 50_000])
def test_the_bound_holds_over_all_slots(limit: int) -> None:
    """However many values come, no more than the bound are kept after trimming."""
    cache = filled(limit, a=1_000, b=90_000, c=0)
    cache.trim()
    assert cache.entries <= limit
    assert cache.evicted == 91_000 - cache.entries
    assert cache.entries >= limit - max(1, limit // 8) - EVICTED_TOGETHER


def test_the_oldest_of_the_largest_slot_go() -> None:
    """Small slots keep everything; of the large one the latest stay."""
    cache = filled(1_000, a=100, b=2_000)
    cache.trim()
    assert list(cache.tables["a"]) == list(range(100))
    kept = list(cache.tables["b"])
    assert kept == list(range(2_000 - len(kept), 2_000))


def test_what_the_encoder_put_there_stays() -> None:
    """The rows of missing values are no part of the bargain."""
    cache = Cache(["a"], 10)
    cache.tables["a"].update({None: 1, "": 1})
    for key in range(1_000):
        cache.tables["a"][str(key)] = 5
        cache.trim()
    assert cache.tables["a"][None] == cache.tables["a"][""] == 1
    assert cache.entries <= 10


def test_trimming_ends_where_nothing_may_go() -> None:
    """Tables that hold but the encoder's own entries are left alone."""
    cache = Cache(["a", "b"], 1)
    for table in cache.tables.values():
        table.update({None: 1, "": 1})
    cache.trim()
    assert cache.entries == 4
