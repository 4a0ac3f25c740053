"""Which bundle of a directory should be served instead of the one in use."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import NamedTuple

from app.bundle.directory import current_written, preferred_bundles
from app.errors import BundleError

Fingerprint = tuple[tuple[str, int, int], ...]
log = logging.getLogger(__name__)


class Attempt(NamedTuple):
    """A bundle as it was when it was last wanted, and when ``CURRENT`` was written (0: it is not
    there)."""

    path: Path
    files: Fingerprint
    pinned: int

    @property
    def number(self) -> int:
        """A number for the cell of a worker: the same attempt has the same one in each."""
        return int.from_bytes(hashlib.sha256(repr(self[1:]).encode()).digest()[:6])


class Refusal(NamedTuple):
    """Why an attempt came to nothing."""

    attempt: Attempt
    reason: str


class Versions:
    """The bundles of a directory, of which some have been refused.

    A refused one is left alone until its files change, as it may still be on its way, or until
    ``CURRENT`` is written again and names it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.refusals: dict[Path, Refusal] = {}
        self._problem = ""

    def wanted(self, current: Path) -> Attempt | None:
        """Return the bundle that should take the place of ``current``, if any should."""
        try:
            found = preferred_bundles(self.directory)
        except BundleError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                log.error("still serving %s: %s", current.name, error)
            return None
        self._problem = ""
        for path in found:
            if path.name == current.name:
                return None
            attempt = Attempt(path, _fingerprint(path), current_written(self.directory))
            refusal = self.refusals.get(path)
            if refusal is None or _differs(attempt, refusal.attempt):
                return attempt
        return None

    def refuse(self, attempt: Attempt, reason: str) -> None:
        """Remember that a bundle as it was is of no use."""
        self.refusals[attempt.path] = Refusal(attempt, reason)


def _differs(attempt: Attempt, refused: Attempt) -> bool:
    """Whether there is a reason to try again."""
    return attempt.files != refused.files or attempt.pinned not in (0, refused.pinned)


def _fingerprint(path: Path) -> Fingerprint:
    """Names, sizes and times of a bundle's files."""
    found = []
    for file in sorted(path.rglob("*")):
        try:
            status = file.stat()
        except OSError:
            continue
        found.append((str(file.relative_to(path)), status.st_size, status.st_mtime_ns))
    return tuple(found)
