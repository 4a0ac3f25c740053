"""One Redis that holds a store, for threads that wait for its replies.

All keys have one hash tag, so that one script writes several of them, on a cluster too. A field of
each hash is no entry but names the store: where it is gone, Redis was emptied.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic

import msgspec

from app.errors import AddressError, FellBehind, LinkError, Problem, StoreError
from app.remote.address import Address
from app.remote.link import Command, ErrorReply, Reply, open_link
from app.store.store import Damaged, Item, read_entry

ASK_SECONDS = 5.0
"""Time limit of one round trip, connecting included."""
BATCH_ROWS, BATCH_BYTES = 1_000, 2**20
"""Entries that one script stores, and about how many bytes: Redis does nothing else meanwhile."""
ITEMS, CHANGES, PROFILES = "ctr:{store}:items", "ctr:{store}:changes", "ctr:{store}:profiles"
FILLING = "ctr:{store}:filling"
"""A hash that has the epoch of a store as long as its items are not declared whole."""
LOADING = "loading"
"""The field of that hash that is there once all items are about to be put."""
EPOCH = b"epoch"
"""The field of a hash that names the store; the names of entries' fields begin with a colon."""
_encode = msgspec.json.Encoder().encode


def field_of(identity: int | str) -> bytes:
    """Return the name of an entry's field."""
    return b":%s" % str(identity).encode()


def packed(entry: Item) -> bytes:
    """Return an entry's values as JSON, after a letter that tells an id that is an integer."""
    return (b"i" if isinstance(entry.id, int) else b"t") + _encode(entry.values)


def unpacked(field: bytes, value: bytes) -> Item:
    """Return the entry of a field."""
    text = field[1:].decode(errors="replace")
    if not field.startswith(b":") or value[:1] not in (b"i", b"t"):
        return Item(text, Damaged("no service wrote it"))
    return read_entry(text, value[:1] == b"i", value[1:])


def batches(entries: Iterable[Item]) -> Iterator[list[bytes]]:
    """Yield fields and values in turn, of as many entries as one script stores."""
    words: list[bytes] = []
    size = 0
    for entry in entries:
        words += [field_of(entry.id), packed(entry)]
        size += len(words[-1])
        if len(words) >= 2 * BATCH_ROWS or size >= BATCH_BYTES:
            yield words
            words, size = [], 0
    if words:
        yield words


class RedisConnection:
    """A connection of threads, which take turns; not for an event loop's thread."""

    def __init__(self, url: str) -> None:
        """Nothing is connected yet.

        Raises:
            StoreError: the URL is wrong.
        """
        self._lock = threading.Lock()
        try:
            self._address = Address.parse(url)
            self._link = open_link(self._address, 1)
        except AddressError as error:
            raise StoreError(
                f"the URL of the store: give sqlite:///absolute/path or that of a Redis: {error}"
            ) from None
        self._loop = asyncio.new_event_loop()

    def ask(self, *commands: Command) -> list[Reply]:
        """Return the replies to commands that are sent together.

        Between two questions nobody sees that Redis closed the connection, so questions that only
        read are asked once more, over a new one, within the same time.

        Raises:
            StoreError: Redis does not answer, or refuses one of them.
        """
        try:
            with self._lock:
                replies = self._loop.run_until_complete(self._asked(commands))
        except LinkError as error:
            raise self._error(error.problem) from None
        for reply in replies:
            if isinstance(reply, ErrorReply):
                raise self._error(reply.problem)
        return replies

    async def _asked(self, commands: Sequence[Command]) -> list[Reply]:
        end = monotonic() + ASK_SECONDS
        try:
            return await self._link.ask(commands, ASK_SECONDS)
        except LinkError as error:
            # A script may have been carried out.
            if error.reason != "connection" or any(each[0] == "EVAL" for each in commands):
                raise
        return await self._link.ask(commands, end - monotonic())

    def _error(self, problem: Problem) -> StoreError:
        return StoreError(problem.shown, f"{self._address}: {problem.detail}")

    def script(self, text: str, keys: Sequence[str], *words: bytes | str | int) -> int:
        """Return a script's number.

        Raises:
            StoreError: there is no store: the script returned false.
        """
        [reply] = self.ask(("EVAL", text, len(keys), *keys, *words))
        if reply is None:
            raise self.absent()
        return int(reply)

    def absent(self) -> StoreError:
        """Return the error that there is no store."""
        return StoreError(
            "there is no store in Redis, or it was emptied: python -m app items create makes one",
            str(self._address),
        )

    def values(
        self, key: str, fields: Sequence[bytes], epoch: str | None = None
    ) -> list[bytes | None]:
        """Return the values of fields of a hash, of the store that has this epoch.

        Raises:
            StoreError: there is no store.
            FellBehind: there is another one.
        """
        [reply] = self.ask(("HMGET", key, EPOCH, *fields))
        values: list[bytes | None] = reply
        found = values.pop(0)
        if found is None:
            raise self.absent()
        if epoch is not None and found.decode() != epoch:
            raise FellBehind("there is another store in Redis")
        return values

    def each(self, key: str) -> Iterator[Item]:
        """Yield the entries of a hash; one that others change meanwhile may come twice.

        Raises:
            StoreError: there is no store, or another one before all has been read.
        """
        epoch, cursor = None, 0
        while True:
            found, (after, part) = self.ask(
                ("HGET", key, EPOCH), ("HSCAN", key, cursor, "COUNT", BATCH_ROWS)
            )
            if found is None or found != (epoch or found):
                raise self.absent()
            for field, value in zip(part[::2], part[1::2], strict=True):
                if field != EPOCH:
                    yield unpacked(field, value)
            epoch, cursor = found, int(after)
            if cursor == 0:
                return

    def count(self, key: str) -> int:
        """Return the number of entries of a hash."""
        epoch, fields = self.ask(("HGET", key, EPOCH), ("HLEN", key))
        if epoch is None:
            raise self.absent()
        return int(fields) - 1

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if not self._loop.is_closed():
                self._loop.run_until_complete(self._link.close())
                self._loop.close()
