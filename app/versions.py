"""Which bundle of a directory should be served instead of the one in use."""

from __future__ import annotations

import logging
from pathlib import Path

from app.bundle import candidates
from app.errors import BundleError

Fingerprint = tuple[tuple[str, int, int], ...]
log = logging.getLogger(__name__)


class Versions:
    """The bundles of a directory, of which some have been refused.

    A refused one is left alone until its files change: it may still be on its way.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._refused: dict[Path, Fingerprint] = {}
        self._tried: Fingerprint = ()
        self._problem = ""

    def wanted(self, current: Path) -> Path | None:
        """Return the bundle that should take the place of ``current``, if any should."""
        try:
            found = candidates(self._directory)
        except BundleError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                log.error("still serving %s: %s", current.name, error)
            return None
        self._problem = ""
        for path in found:
            if path.name == current.name:
                return None
            self._tried = _fingerprint(path)
            if self._refused.get(path) != self._tried:
                return path
        return None

    def refuse(self, path: Path) -> None:
        """Remember that ``path`` as it was when last wanted is of no use."""
        self._refused[path] = self._tried


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
