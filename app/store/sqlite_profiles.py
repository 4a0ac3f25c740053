"""Profiles in a SQLite file, beside the items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import msgspec

from app.errors import StoreError
from app.store.sqlite_file import SqliteFile
from app.store.store import Item, read_entry, whole

BATCH_ROWS = 1_000
"""Profiles that one transaction stores, or one read takes."""
_encode = msgspec.json.Encoder().encode


class SqliteProfiles:
    """The profiles of a store: a table of its file, without changes to follow."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def put(self, entries: Iterable[Item]) -> int:
        rows = iter(entries)
        stored = 0
        while batch := [
            (str(key), isinstance(key, int), _encode(values))
            for key, values in islice(rows, BATCH_ROWS)
        ]:
            with self._file.writing():
                self._file.execute_many(
                    "INSERT INTO profiles VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE"
                    " SET integer = ?2, features = ?3",
                    batch,
                )
            stored += len(batch)
        return stored

    def delete(self, ids: Sequence[int | str]) -> int:
        with self._file.writing():
            return sum(
                self._file.execute("DELETE FROM profiles WHERE id = ?", [str(key)]).rowcount
                for key in ids
            )

    def get(self, identity: int | str) -> Item | None:
        with self._file.turn():
            row = self._file.execute(
                "SELECT id, integer, features FROM profiles WHERE id = ?", [str(identity)]
            ).fetchone()
        return None if row is None else whole(read_entry(*row))

    def find(self, ids: Sequence[str]) -> list[bytes | None]:
        self._file.check_present()
        with self._file.turn():
            if self._file.execute("SELECT 1 FROM store").fetchone() is None:
                raise StoreError(f"{self._file.path} was emptied")
            rows = [
                self._file.execute("SELECT features FROM profiles WHERE id = ?", [key]).fetchone()
                for key in ids
            ]
        return [None if row is None else row[0] for row in rows]

    def each(self) -> Iterator[Item]:
        after = None
        while True:
            with self._file.turn():
                rows = self._file.execute(
                    "SELECT id, integer, features FROM profiles"
                    f" {'' if after is None else 'WHERE id > ?'} ORDER BY id LIMIT ?",
                    [*([] if after is None else [after]), BATCH_ROWS],
                ).fetchall()
            if not rows:
                return
            for row in rows:
                yield read_entry(*row)
            after = rows[-1][0]

    def count(self) -> int:
        with self._file.turn():
            (found,) = self._file.execute("SELECT count(*) FROM profiles").fetchone()
        return int(found)
