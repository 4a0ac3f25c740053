"""A store in Redis, for the services of a fleet.

A hash holds the items, a stream the ids that changed; one script writes both, so that an item and
its change are there together or not at all. The id of a stream's entry is ``NUMBER-MARK``: the
change's number, and a random number that the script was given. A follower reads on from an entry
that must still be there; where it is cut off, or another history has an entry of that number with
another mark, the follower reads everything again.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from app.errors import FellBehind
from app.store.redis_connection import (
    BATCH_ROWS,
    CHANGES,
    EPOCH,
    FILLING,
    ITEMS,
    LOADING,
    PROFILES,
    RedisConnection,
    batches,
    field_of,
    unpacked,
)
from app.store.redis_profiles import RedisProfiles
from app.store.store import Change, Item, Position, whole

KEPT_CHANGES = 500_000
"""Changes that followers can still read, of some 18 bytes each."""
_MOST_MARK = 2**63

# KEYS: items, changes. PUT and DELETE return false where Redis has no store.
_LAST = """
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if not last or redis.call('HEXISTS', KEYS[1], 'epoch') == 0 then return false end
local number = tonumber(string.match(last[1], '^%d+'))
local function changed(field)
  number = number + 1
  redis.call('XADD', KEYS[2], string.format('%.0f-%s', number, ARGV[1]), 'id', field)
end
"""
_CUT = "redis.call('XTRIM', KEYS[2], 'MAXLEN', '~', ARGV[2])"
# ARGV: mark, changes to keep, then fields and values in turn.
_PUT = f"""{_LAST}
for place = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[place], ARGV[place + 1])
  changed(ARGV[place])
end
{_CUT}
return (#ARGV - 2) / 2
"""
# ARGV: mark, changes to keep, then fields.
_DELETE = f"""{_LAST}
local deleted = 0
for place = 3, #ARGV do
  if redis.call('HDEL', KEYS[1], ARGV[place]) == 1 then
    deleted = deleted + 1
    changed(ARGV[place])
  end
end
{_CUT}
return deleted
"""
# KEYS: items, changes, profiles, filling; ARGV: mark, epoch. What part of a store is left stays.
_CREATE = """
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch or redis.call('XLEN', KEYS[2]) == 0 then
  epoch = ARGV[2]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
  redis.call('DEL', KEYS[2])
  redis.call('XADD', KEYS[2], '0-' .. ARGV[1], 'epoch', epoch)
  redis.call('HSET', KEYS[4], 'epoch', epoch)
end
redis.call('HSET', KEYS[3], 'epoch', epoch)
return 1
"""
# KEYS: filling.
_BEGIN = f"""
if redis.call('HEXISTS', KEYS[1], 'epoch') == 0 then return 0 end
redis.call('HSET', KEYS[1], '{LOADING}', 1)
return 1
"""


class RedisStore:
    """The store in one Redis, of any kind that a URL names."""

    def __init__(self, url: str, create: bool = False) -> None:
        """Connect; ``create`` makes the store where it is absent.

        Raises:
            StoreError: the URL is wrong, Redis does not answer, or has no store.
        """
        self._redis = RedisConnection(url)
        self.profiles = RedisProfiles(self._redis)
        try:
            if create:
                keys = [ITEMS, CHANGES, PROFILES, FILLING]
                self._redis.script(_CREATE, keys, _mark(), uuid.uuid4().hex)
            self._head()
        except BaseException:
            self._redis.close()
            raise

    def _head(self) -> Position:
        """Return the position of the last change."""
        epoch, last = self._redis.ask(
            ("HGET", ITEMS, EPOCH), ("XREVRANGE", CHANGES, "+", "-", "COUNT", 1)
        )
        if epoch is None or not last:
            raise self._redis.absent()
        return _position(epoch, last[0][0])

    def put(self, entries: Iterable[Item]) -> int:
        return sum(self._change(_PUT, words) for words in batches(entries))

    def delete(self, ids: Sequence[int | str]) -> int:
        return sum(
            self._change(_DELETE, list(map(field_of, ids[start : start + BATCH_ROWS])))
            for start in range(0, len(ids), BATCH_ROWS)
        )

    def _change(self, script: str, words: Sequence[bytes]) -> int:
        return self._redis.script(script, [ITEMS, CHANGES], _mark(), KEPT_CHANGES, *words)

    def get(self, identity: int | str) -> Item | None:
        field = field_of(identity)
        [value] = self._redis.values(ITEMS, [field])
        return None if value is None else whole(unpacked(field, value))

    def items(self) -> tuple[Position, Iterator[Item]]:
        return self._head(), self.each()

    def each(self) -> Iterator[Item]:
        return self._redis.each(ITEMS)

    def changes(self, after: Position, most: int) -> tuple[Position, Sequence[Change]]:
        place = f"{after.number}-{after.mark}"
        epoch, entries = self._redis.ask(
            ("HGET", ITEMS, EPOCH), ("XRANGE", CHANGES, place, "+", "COUNT", most + 1)
        )
        if epoch is None:
            raise self._redis.absent()
        if epoch.decode() != after.epoch or not entries or entries[0][0].decode() != place:
            raise FellBehind(f"Redis has other changes than those after {after.number}")
        if len(entries) == 1:
            return after, []
        numbers: dict[bytes, int] = {}
        for name, (_, field) in entries[1:]:
            # The last change of an item counts: its values are the newest.
            numbers.pop(field, None)
            numbers[field] = int(name.partition(b"-")[0])
        values = self._redis.values(ITEMS, list(numbers), after.epoch)
        changes = [
            _change(number, field, value)
            for (field, number), value in zip(numbers.items(), values, strict=True)
        ]
        return _position(epoch, entries[-1][0]), changes

    def count(self) -> int:
        return self._redis.count(ITEMS)

    def filling(self) -> str | None:
        [epoch] = self._redis.ask(("HGET", FILLING, EPOCH))
        return None if epoch is None else str(epoch.decode())

    def begin_load(self) -> None:
        self._redis.script(_BEGIN, [FILLING])

    def loading(self) -> bool:
        [mark] = self._redis.ask(("HGET", FILLING, LOADING))
        return mark is not None

    def declare_whole(self) -> None:
        self._redis.ask(("HDEL", FILLING, EPOCH, LOADING))

    def holds(self, path: Path) -> bool:
        return False

    def close(self) -> None:
        self._redis.close()


def _mark() -> int:
    return 1 + secrets.randbelow(_MOST_MARK)


def _change(number: int, field: bytes, value: bytes | None) -> Change:
    if value is None:
        return Change(number, field[1:].decode(errors="replace"), None)
    return Change(number, *unpacked(field, value))


def _position(epoch: bytes, name: bytes) -> Position:
    number, mark = name.split(b"-")
    return Position(epoch.decode(), int(number), int(mark))
