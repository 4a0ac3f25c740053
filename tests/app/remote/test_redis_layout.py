"""Where values lie in Redis: the same place for who writes and who reads, and room for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from app.features.layout import Slot
from app.remote.redis_layout import (
    BUCKET_VALUES,
    SENTINEL,
    Entry,
    Key,
    RegisterError,
    bucket_count,
    slot_keys,
    text_of,
)

HASH = "0123456789abcdef" * 4
PACKED = 127
"""Values that Redis packs into one small hash by default, beside the sentinel."""
SLOT = Slot("user", "user", first=10, size=102)


@pytest.mark.parametrize(
    "key",
    [
        lambda number: number,
        lambda number: number * 10,
        lambda number: 10**18 + number * 1_000_003,
        lambda number: f"{number * 0x9E3779B1 & 0xFFFFFFFF:08x}",
        lambda number: f"https://example.com/item/{number}",
    ],
    ids=["sequence", "tens", "large", "hexadecimal", "urls"],
)
def test_buckets_are_filled_evenly(key: Callable[[int], Key]) -> None:
    """However regular the values, no bucket outgrows what Redis packs."""
    count = 200_000
    keys = slot_keys(HASH, 0, SLOT, count)
    filled = Counter(keys.of(text_of(key(number))) for number in range(count))
    assert len(filled) == keys.buckets == bucket_count(count)
    assert max(filled.values()) <= PACKED


def test_an_empty_slot_has_a_bucket() -> None:
    """There is always a sentinel to ask for."""
    assert [bucket_count(count) for count in (0, 1, BUCKET_VALUES, BUCKET_VALUES + 1)] == [
        1, 1, 1, 2,
    ]  # fmt: skip


def test_names_tell_vocabularies_slots_and_buckets_apart() -> None:
    """No two buckets share a key or a sentinel's content."""
    hashes = (HASH, HASH[::-1])
    all_keys = [slot_keys(each, number, SLOT, 2_000) for each in hashes for number in range(20)]
    names = [keys.name(bucket) for keys in all_keys for bucket in range(keys.buckets)]
    assert len(set(names)) == len(names)
    sentinels = [keys.sentinel(bucket) for keys in all_keys[:20] for bucket in range(keys.buckets)]
    assert len(set(sentinels)) == len(sentinels)


def test_no_value_is_the_sentinel() -> None:
    """The sentinel's field is no UTF-8, so no text can be it."""
    with pytest.raises(UnicodeDecodeError):
        SENTINEL.decode()


@pytest.mark.parametrize("content", [b"12", b"111", b"057"])
def test_rows_of_values_are_read(content: bytes) -> None:
    """Any row of the slot after its two reserved ones."""
    assert slot_keys(HASH, 0, SLOT, 100).row(content) == int(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"0", b"9", b"10", b"11", b"112", b"1000000000", b"99999999999999", b"-12", b"+12",
     b" 12", b"1_2", b"12.0", b"x", b"\xff", "१२".encode()],
)  # fmt: skip
def test_what_is_no_row_of_a_value_is_not_read(content: bytes) -> None:
    """Another slot's row, a reserved one, and what is no number."""
    assert slot_keys(HASH, 0, SLOT, 100).row(content) is None


def entry(**changes: object) -> Entry:
    """An entry of the register."""
    usual: dict[str, object] = {
        "hash": HASH, "state": "complete", "values": 100, "buckets": {0: 2, 5: 1},
        "bundle": "b", "published": "2026-01-01T00:00:00+00:00", "writer": "w",
    }  # fmt: skip
    return Entry(**(usual | changes))  # type: ignore[arg-type]


def test_an_entry_comes_back() -> None:
    """The register gives back what was put into it, and names every bucket."""
    assert Entry.decode(entry().encode()) == entry()
    prefixes = [slot_keys(HASH, number, SLOT, 100).prefix for number in (0, 5)]
    assert list(entry().names()) == [prefixes[0] + b"0", prefixes[0] + b"1", prefixes[1] + b"0"]


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff", entry(state="odd").encode()])
def test_a_malformed_entry_is_refused(raw: bytes) -> None:
    """Other texts are told apart from entries."""
    with pytest.raises(RegisterError):
        Entry.decode(raw)
