"""Profiles in Redis, beside the items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from app.store.redis_connection import (
    BATCH_ROWS,
    PROFILES,
    RedisConnection,
    batches,
    field_of,
    unpacked,
)
from app.store.store import Item, whole

# KEYS: profiles. Both return false where Redis has no store.
_PRESENT = "if redis.call('HEXISTS', KEYS[1], 'epoch') == 0 then return false end"
# ARGV: fields and values in turn.
_PUT = f"""{_PRESENT}
for place = 1, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[place], ARGV[place + 1]) end
return #ARGV / 2
"""
# ARGV: fields.
_DELETE = f"""{_PRESENT}
local deleted = 0
for place = 1, #ARGV do deleted = deleted + redis.call('HDEL', KEYS[1], ARGV[place]) end
return deleted
"""


class RedisProfiles:
    """The profiles of a store: a hash without changes to follow."""

    def __init__(self, connection: RedisConnection) -> None:
        self._redis = connection

    def put(self, entries: Iterable[Item]) -> int:
        return sum(self._redis.script(_PUT, [PROFILES], *words) for words in batches(entries))

    def delete(self, ids: Sequence[int | str]) -> int:
        return sum(
            self._redis.script(_DELETE, [PROFILES], *map(field_of, ids[start : start + BATCH_ROWS]))
            for start in range(0, len(ids), BATCH_ROWS)
        )

    def get(self, identity: int | str) -> Item | None:
        field = field_of(identity)
        [value] = self._redis.values(PROFILES, [field])
        return None if value is None else whole(unpacked(field, value))

    def find(self, ids: Sequence[str]) -> list[bytes | None]:
        values = self._redis.values(PROFILES, [field_of(key) for key in ids])
        return [None if value is None else value[1:] for value in values]

    def each(self) -> Iterator[Item]:
        return self._redis.each(PROFILES)

    def count(self) -> int:
        return self._redis.count(PROFILES)
