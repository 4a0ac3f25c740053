"""One SQLite file that threads share: opened with care, written in whole transactions."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.errors import StoreError

BUSY_SECONDS = 5.0
"""Seconds that a writer waits for another one."""
_NETWORK = ("nfs", "cifs", "smb", "9p", "ceph", "glusterfs", "lustre", "afs", "fuse.sshfs")
"""Beginnings of the types of file systems on which SQLite's write-ahead log does not work."""


class SqliteFile:
    """A connection to one file. Threads take turns; open it after the process has forked."""

    def __init__(self, path: Path, create: bool) -> None:
        """Open the file; ``create`` makes it where it is absent.

        Raises:
            StoreError: it is absent, no database, or on a network file system.
        """
        self.path = path
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
            with self.turn():
                self.execute("PRAGMA journal_mode = WAL")
                self.execute("PRAGMA synchronous = FULL")
            self._inode = path.stat().st_ino
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{path} cannot be opened: {error}") from None

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Execute a statement, in a turn."""
        return self._connection.execute(statement, values)

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute a statement for each of these rows, in a turn."""
        self._connection.executemany(statement, rows)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Take a turn; raise SQLite's errors as the store's."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise StoreError(f"{self.path}: {error}") from None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Take a turn, and write in one transaction: all of it or nothing."""
        with self.turn():
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self.execute("ROLLBACK")
                raise

    def has(self, table: str) -> bool:
        """Tell whether there is such a table, in a turn."""
        found = self.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [table])
        return found.fetchone() is not None

    def check_present(self) -> None:
        """Notice that the file was deleted or replaced: the connection still has the old one.

        Raises:
            StoreError: it was.
        """
        try:
            same = self.path.stat().st_ino == self._inode
        except OSError:
            same = False
        if not same:
            raise StoreError(f"{self.path} was deleted or replaced")

    def holds(self, path: Path) -> bool:
        """Tell whether a file is this one, or one of those that SQLite keeps beside it."""
        own = (self.path.with_name(self.path.name + end) for end in ("", "-wal", "-shm"))
        return any(path.exists() and each.exists() and each.samefile(path) for each in own)

    def close(self) -> None:
        """Close the connection."""
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
