"""The versions that were served last, remembered across restarts beside the events.

Events for what an earlier process served come for a while; they count by its version too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from app.files import read_regular, write_file
from app.metrics.feedback import VERSIONS

NAME = "served.json"
FILE_BYTES = 2**16
log = logging.getLogger(__name__)
_decode = msgspec.json.Decoder(list[str]).decode


class Served:
    """The file of versions, the one that was served last at the end. Its methods may block."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME

    def versions(self) -> Sequence[str]:
        """Return the versions; none where the file is absent or cannot be read."""
        try:
            return _decode(read_regular(self._path, FILE_BYTES))
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("%s cannot be read: %s", self._path, error)
            return []

    def add(self, version: str) -> None:
        """Note a version. Where that cannot be, only the next start does not know of it."""
        before = [each for each in self.versions() if each != version]
        try:
            write_file(self._path, msgspec.json.encode([*before, version][-VERSIONS:]))
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror)
