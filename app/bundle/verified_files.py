"""Large files that were verified before, noted on disk: a start need not read them again.

A file is the same as before if device, inode, size, time of modification and time of change are.
Whoever writes to a file, replaces it or sets its times back changes one of these; only a failing
disk does not. The note is as trustworthy as the program's own files: it counts only where it and
its directory belong to the service's user (or to root) and no other user may write to them.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from pathlib import Path

import msgspec

from app.files import read_regular, sha256, write_file

LARGE = 2**24
"""Bytes from which on a file is noted; smaller ones are hashed at every start."""
SETTLED_NS = 2_000_000_000
"""Age of a file's last change from which on a later change is sure to have another time."""
MOST_FILES = 1_000
"""Files that are noted; the oldest notes are dropped."""
MOST_BYTES = 2**20
"""Bytes of the note that are read."""
log = logging.getLogger(__name__)


class _Identity(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The facts that no write to a file leaves all unchanged; times in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> _Identity:
        found = path.stat()
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    @property
    def settled(self) -> bool:
        """True if a change from now on shows in the file's times."""
        return max(self.modified, self.changed) + SETTLED_NS < time.time_ns()


class _Note(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    file: _Identity
    sha256: str


class VerifiedFiles:
    """The note at ``path``; without a path, or where it cannot be trusted, nothing is noted."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path if path is not None and _trusted(path) else None
        self._known = {} if self._path is None else _read(self._path)
        self._changed = False

    def sha256(self, path: Path) -> str:
        """Return a file's SHA-256: the noted one if the file is the same, else a new one.

        Raises:
            OSError: the file cannot be read.
        """
        if self._path is None or (before := _Identity.of(path)).size < LARGE:
            return sha256(path)
        if before in self._known:
            _read_ahead(path)
            return self._known[before]
        settled = before.settled
        found = sha256(path)
        if settled and _Identity.of(path) == before:
            self._known[before] = found
            self._changed = True
        return found

    def save(self) -> None:
        """Write the note, if there is anything new; where that fails, the log says why."""
        if self._path is None or not self._changed:
            return
        notes = [_Note(file, digest) for file, digest in self._known.items()][-MOST_FILES:]
        try:
            write_file(self._path, msgspec.json.encode(notes), mode=0o600)
        except OSError as error:
            log.warning("verified files are not noted in %s: %s", self._path, error.strerror)


def _read_ahead(path: Path) -> None:
    """Have the kernel read a file into memory, as hashing it would: engines and look-ups map it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)


def _trusted(path: Path) -> bool:
    """Return whether only this user and root can write the note; the log says why if not."""
    try:
        places = [path.parent.stat()]
        if path.is_symlink() or path.exists():
            places.append(path.lstat())
            if not stat.S_ISREG(places[1].st_mode):
                log.warning("verified files are not noted: %s is not a regular file", path)
                return False
    except OSError as error:
        log.warning("verified files are not noted in %s: %s", path, error.strerror)
        return False
    for place in places:
        if place.st_uid not in (0, os.geteuid()) or place.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            log.warning(
                "verified files are not noted: other users can write to %s or its directory", path
            )
            return False
    return True


_decoder = msgspec.json.Decoder(list[_Note])


def _read(path: Path) -> dict[_Identity, str]:
    try:
        content = read_regular(path, MOST_BYTES)
        return {note.file: note.sha256 for note in _decoder.decode(content)}
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("the note of verified files cannot be read and is written again: %s", error)
        return {}
