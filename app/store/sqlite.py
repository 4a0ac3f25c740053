"""A store in one SQLite file, for the workers of one host.

One table holds the newest change of every key, deletions included, so a key that changes a million
times has one row, and a follower asks for the rows whose number is above its own. The oldest
deletions are trimmed; a follower that is behind them reads everything again.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import msgspec

from app.errors import FellBehind, StoreError
from app.store.store import Change, Item, Position

BUSY_SECONDS = 5.0
"""How long a writer waits for another one."""
BATCH_ROWS = 1_000
"""Items that one transaction stores: other writers and readers come in between."""
KEPT_DELETIONS = 10_000
"""Deletions that followers can still read."""
_NETWORK = ("nfs", "cifs", "smb", "9p", "ceph", "glusterfs", "lustre", "afs", "fuse.sshfs")
"""Beginnings of the types of file systems on which SQLite's write-ahead log does not work."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS store (epoch TEXT NOT NULL, number INTEGER NOT NULL,
    trimmed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS items (id TEXT PRIMARY KEY, integer INTEGER NOT NULL,
    number INTEGER NOT NULL, features BLOB) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS changes ON items (number);
CREATE INDEX IF NOT EXISTS deletions ON items (number) WHERE features IS NULL;
"""
_decode = msgspec.json.Decoder(dict[str, object]).decode
_encode = msgspec.json.Encoder().encode


def _told_apart(identity: int | str) -> tuple[str, bool]:
    """Return an id's text, and whether it is an integer."""
    return str(identity), isinstance(identity, int)


def _item(text: str, integer: int, features: bytes) -> Item:
    return Item(int(text) if integer else text, _decode(features))


class SqliteStore:
    """The store in one file. Threads take turns; open it after the process has forked."""

    def __init__(self, path: Path, create: bool = False) -> None:
        """Open the file; ``create`` makes it where it is absent.

        Raises:
            StoreError: it is absent, no store, or on a network file system.
        """
        self._path = path
        self._lock = threading.Lock()
        if not create and not path.is_file():
            raise StoreError(f"there is no store {path}: python -m app items create makes one")
        if (kind := file_system(path)).startswith(_NETWORK):
            raise StoreError(
                f"{path} lies on a network file system ({kind}), where SQLite cannot share it: use"
                " a local disk"
            )
        try:
            self._connection = sqlite3.connect(
                path, BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            with self._told():
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                if create:
                    self._create()
                self._inode = path.stat().st_ino
                self._head()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{path} cannot be opened: {error}") from None

    def _create(self) -> None:
        with self._writing():
            for statement in _SCHEMA.split(";"):
                self._connection.execute(statement)
            if self._connection.execute("SELECT 1 FROM store").fetchone() is None:
                self._connection.execute("INSERT INTO store VALUES (?, 0, 0)", [uuid.uuid4().hex])

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Take a turn; raise SQLite's errors as the store's."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise StoreError(f"{self._path}: {error}") from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write in one transaction, all of it or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _head(self) -> tuple[str, int, int]:
        """Return the epoch, the number of the last change, and that of the last trimmed one."""
        try:
            row: tuple[str, int, int] | None = self._connection.execute(
                "SELECT epoch, number, trimmed FROM store"
            ).fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            row = None
        if row is None:
            raise StoreError(f"{self._path} is not a store, or was emptied")
        return row

    def put(self, items: Iterable[Item]) -> int:
        rows = iter(items)
        stored = 0
        while batch := [(*_told_apart(i), _encode(v)) for i, v in islice(rows, BATCH_ROWS)]:
            with self._told(), self._writing():
                number = self._head()[1]
                self._connection.executemany(
                    "INSERT INTO items VALUES (?1, ?2, ?4, ?3) ON CONFLICT (id) DO UPDATE"
                    " SET integer = ?2, number = ?4, features = ?3",
                    [(*row, number + place) for place, row in enumerate(batch, 1)],
                )
                self._set_number(number + len(batch))
            stored += len(batch)
        return stored

    def delete(self, ids: Sequence[int | str]) -> int:
        with self._told(), self._writing():
            number = first = self._head()[1]
            for identity in ids:
                number += self._connection.execute(
                    "UPDATE items SET number = ?, features = NULL"
                    " WHERE id = ? AND features IS NOT NULL",
                    [number + 1, str(identity)],
                ).rowcount
            self._set_number(number)
            self._trim()
        return number - first

    def _set_number(self, number: int) -> None:
        self._connection.execute("UPDATE store SET number = ?", [number])

    def _trim(self) -> None:
        """Forget the oldest deletions beyond ``KEPT_DELETIONS``."""
        oldest = self._connection.execute(
            "SELECT number FROM items WHERE features IS NULL ORDER BY number DESC LIMIT 1 OFFSET ?",
            [KEPT_DELETIONS],
        ).fetchone()
        if oldest is not None:
            self._connection.execute(
                "DELETE FROM items WHERE features IS NULL AND number <= ?", oldest
            )
            self._connection.execute("UPDATE store SET trimmed = ?", oldest)

    def get(self, identity: int | str) -> Item | None:
        with self._told():
            row = self._connection.execute(
                "SELECT id, integer, features FROM items WHERE id = ? AND features IS NOT NULL",
                [str(identity)],
            ).fetchone()
        return None if row is None else _item(*row)

    def items(self) -> tuple[Position, Iterator[Item]]:
        with self._told():
            epoch, number, _ = self._head()
        return Position(epoch, number), self._items()

    def _items(self) -> Iterator[Item]:
        """Yield items by id, in batches between which others may write."""
        after = None
        while True:
            with self._told():
                rows = self._connection.execute(
                    "SELECT id, integer, features FROM items WHERE features IS NOT NULL"
                    f" {'' if after is None else 'AND id > ?'} ORDER BY id LIMIT ?",
                    [*([] if after is None else [after]), BATCH_ROWS],
                ).fetchall()
            if not rows:
                return
            for row in rows:
                yield _item(*row)
            after = rows[-1][0]

    def changes(self, after: Position, most: int) -> Sequence[Change]:
        self._check_present()
        with self._told():
            epoch, number, trimmed = self._head()
            if epoch != after.epoch or number < after.number or after.number < trimmed:
                raise FellBehind(f"{self._path} has other changes than those after {after.number}")
            rows = self._connection.execute(
                "SELECT number, id, integer, features FROM items WHERE number > ?"
                " ORDER BY number LIMIT ?",
                [after.number, most],
            ).fetchall()
        return [
            Change(number, int(key) if integer else key, None if text is None else _decode(text))
            for number, key, integer, text in rows
        ]

    def _check_present(self) -> None:
        """Notice that the file was deleted or replaced: the connection still has the old one."""
        try:
            same = self._path.stat().st_ino == self._inode
        except OSError:
            same = False
        if not same:
            raise StoreError(f"{self._path} was deleted or replaced")

    def count(self) -> int:
        with self._told():
            self._head()
            (found,) = self._connection.execute(
                "SELECT count(*) FROM items WHERE features IS NOT NULL"
            ).fetchone()
        return int(found)

    def holds(self, path: Path) -> bool:
        own = (self._path.with_name(self._path.name + end) for end in ("", "-wal", "-shm"))
        return any(path.exists() and each.exists() and each.samefile(path) for each in own)

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def file_system(path: Path) -> str:
    """Return the type of the file system that a path lies on; empty where that is not known."""
    best, found = -1, ""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
        directory = path.parent.resolve()
    except OSError:
        return ""
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split(" ")
        # Spaces in the name of a mount point are octal escapes.
        place = Path(point.encode().decode("unicode_escape"))
        if directory.is_relative_to(place) and len(place.parts) >= best:
            best, found = len(place.parts), kind
    return found
