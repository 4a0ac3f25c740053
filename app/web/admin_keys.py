"""Keys for the admin port, of which only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from app.errors import KeyFileError
from app.files import read_regular

FILE_BYTES = 2**20
"""Bytes of the file that are read: some ten thousand keys."""
_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_HASH = re.compile(r"[0-9a-f]{64}")


class Keys:
    """Keys whose SHA-256 stand in a file, a line for each, as ``sha256sum`` writes them.

    The file is read each time, so that a key can be added or taken away while the service runs.
    A key has to be long and random: nothing but its own entropy keeps it from being found.
    """

    def __init__(self, file: Path) -> None:
        """Read the file for the first time.

        Raises:
            KeyFileError: it cannot be used.
        """
        self._file = file
        self._hashes()

    def admit(self, authorization: str) -> bool:
        """True if an ``Authorization`` header's value is a bearer's with a known key.

        Raises:
            KeyFileError: the file cannot be used any more.
        """
        found = _BEARER.fullmatch(authorization)
        given = hashlib.sha256((found[1] if found else "").encode()).hexdigest()
        # Every hash is compared, each in the same time: how long it takes tells nothing.
        equal = [hmac.compare_digest(given, each) for each in self._hashes()]
        return found is not None and any(equal)

    def _hashes(self) -> list[str]:
        try:
            lines = read_regular(self._file, FILE_BYTES).decode("ascii").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problem = error.strerror if isinstance(error, OSError) else "it is not text"
            raise KeyFileError(f"{self._file} cannot be read: {problem}") from None
        hashes = [line.split()[0].lower() for line in lines if line.strip()]
        if not hashes:
            raise KeyFileError(f"{self._file} holds no key's hash")
        if not all(map(_HASH.fullmatch, hashes)):
            raise KeyFileError(f"{self._file}: a line does not begin with a SHA-256 in hexadecimal")
        return hashes
