"""A store in one SQLite file, for the workers of one host.

One table holds the newest change of every key, deletions included, so a key that changes a million
times has one row, and a follower asks for the rows whose number is above its own. The oldest
deletions are trimmed; a follower that is behind them reads everything again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from app.errors import FellBehind, StoreError
from app.store.sqlite_file import SqliteFile
from app.store.sqlite_profiles import SqliteProfiles
from app.store.store import Change, Item, Position, read_entry, whole

BATCH_ROWS = 1_000
"""Items that one transaction stores: other writers and readers come in between."""
KEPT_DELETIONS = 10_000
"""Deletions that followers can still read."""
_WHOLE, _NEW, _LOADING = range(3)
"""States of a store: all items have been put, or the store is new, or they are being put."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS store (epoch TEXT NOT NULL, number INTEGER NOT NULL,
    trimmed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS items (id TEXT PRIMARY KEY, integer INTEGER NOT NULL,
    number INTEGER NOT NULL, features BLOB) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS changes ON items (number);
CREATE INDEX IF NOT EXISTS deletions ON items (number) WHERE features IS NULL;
CREATE TABLE IF NOT EXISTS profiles (id TEXT PRIMARY KEY, integer INTEGER NOT NULL,
    features BLOB NOT NULL) WITHOUT ROWID;
"""
_encode = msgspec.json.Encoder().encode


def _told_apart(identity: int | str) -> tuple[str, bool]:
    """Return an id's text, and whether it is an integer."""
    return str(identity), isinstance(identity, int)


class SqliteStore:
    """The store in one file. Threads take turns; open it after the process has forked."""

    def __init__(self, path: Path, create: bool = False) -> None:
        """Open the file; ``create`` makes it where it is absent.

        Raises:
            StoreError: it is absent, no store, or on a network file system.
        """
        self._file = SqliteFile(path, create)
        self.profiles = SqliteProfiles(self._file)
        if create:
            self._create()
        with self._file.turn():
            self._head()

    def _create(self) -> None:
        with self._file.writing():
            for statement in _SCHEMA.split(";"):
                self._file.execute(statement)
            if self._file.execute("SELECT 1 FROM store").fetchone() is None:
                self._file.execute("INSERT INTO store VALUES (?, 0, 0)", [uuid.uuid4().hex])
                self._note(_NEW)

    def _head(self) -> tuple[str, int, int]:
        """Return the epoch, the number of the last change, and that of the last trimmed one."""
        row: tuple[str, int, int] | None = None
        if self._file.has("store"):
            row = self._file.execute("SELECT epoch, number, trimmed FROM store").fetchone()
        if row is None:
            raise StoreError(f"{self._file.path} is not a store, or was emptied")
        return row

    def put(self, items: Iterable[Item]) -> int:
        rows = iter(items)
        stored = 0
        while batch := [(*_told_apart(i), _encode(v)) for i, v in islice(rows, BATCH_ROWS)]:
            with self._file.writing():
                number = self._head()[1]
                self._file.execute_many(
                    "INSERT INTO items VALUES (?1, ?2, ?4, ?3) ON CONFLICT (id) DO UPDATE"
                    " SET integer = ?2, number = ?4, features = ?3",
                    [(*row, number + place) for place, row in enumerate(batch, 1)],
                )
                self._set_number(number + len(batch))
            stored += len(batch)
        return stored

    def delete(self, ids: Sequence[int | str]) -> int:
        with self._file.writing():
            number = first = self._head()[1]
            for identity in ids:
                number += self._file.execute(
                    "UPDATE items SET number = ?, features = NULL"
                    " WHERE id = ? AND features IS NOT NULL",
                    [number + 1, str(identity)],
                ).rowcount
            self._set_number(number)
            self._trim()
        return number - first

    def _set_number(self, number: int) -> None:
        self._file.execute("UPDATE store SET number = ?", [number])

    def _trim(self) -> None:
        """Forget the oldest deletions beyond ``KEPT_DELETIONS``."""
        oldest = self._file.execute(
            "SELECT number FROM items WHERE features IS NULL ORDER BY number DESC LIMIT 1 OFFSET ?",
            [KEPT_DELETIONS],
        ).fetchone()
        if oldest is not None:
            self._file.execute("DELETE FROM items WHERE features IS NULL AND number <= ?", oldest)
            self._file.execute("UPDATE store SET trimmed = ?", oldest)

    def get(self, identity: int | str) -> Item | None:
        with self._file.turn():
            row = self._file.execute(
                "SELECT id, integer, features FROM items WHERE id = ? AND features IS NOT NULL",
                [str(identity)],
            ).fetchone()
        return None if row is None else whole(read_entry(*row))

    def items(self) -> tuple[Position, Iterator[Item]]:
        with self._file.turn():
            epoch, number, _ = self._head()
        return Position(epoch, number), self.each()

    def each(self) -> Iterator[Item]:
        after = None
        while True:
            with self._file.turn():
                rows = self._file.execute(
                    "SELECT id, integer, features FROM items WHERE features IS NOT NULL"
                    f" {'' if after is None else 'AND id > ?'} ORDER BY id LIMIT ?",
                    [*([] if after is None else [after]), BATCH_ROWS],
                ).fetchall()
            if not rows:
                return
            for row in rows:
                yield read_entry(*row)
            after = rows[-1][0]

    def changes(self, after: Position, most: int) -> tuple[Position, Sequence[Change]]:
        self._file.check_present()
        with self._file.turn():
            epoch, number, trimmed = self._head()
            if epoch != after.epoch or number < after.number or after.number < trimmed:
                raise FellBehind(
                    f"{self._file.path} has other changes than those after {after.number}"
                )
            rows = self._file.execute(
                "SELECT number, id, integer, features FROM items WHERE number > ?"
                " ORDER BY number LIMIT ?",
                [after.number, most],
            ).fetchall()
        changes = [
            Change(number, key, None)
            if text is None
            else Change(number, *read_entry(key, integer, text))
            for number, key, integer, text in rows
        ]
        return after._replace(number=changes[-1].number) if changes else after, changes

    def count(self) -> int:
        with self._file.turn():
            self._head()
            (found,) = self._file.execute(
                "SELECT count(*) FROM items WHERE features IS NOT NULL"
            ).fetchone()
        return int(found)

    def filling(self) -> str | None:
        with self._file.turn():
            return self._head()[0] if self._noted() != _WHOLE else None

    def begin_load(self) -> None:
        with self._file.writing():
            if self._noted() == _NEW:
                self._note(_LOADING)

    def loading(self) -> bool:
        with self._file.turn():
            return self._noted() == _LOADING

    def declare_whole(self) -> None:
        with self._file.turn():
            self._note(_WHOLE)

    def _note(self, state: int) -> None:
        """Keep a number where SQLite keeps one for applications."""
        self._file.execute(f"PRAGMA user_version = {state}")

    def _noted(self) -> int:
        (state,) = self._file.execute("PRAGMA user_version").fetchone()
        return int(state)

    def holds(self, path: Path) -> bool:
        return self._file.holds(path)

    def close(self) -> None:
        self._file.close()
