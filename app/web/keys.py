"""Keys for the admin port and for feedback, of which only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

from fastapi import Header

from app.errors import KeyFileError, Unauthorized
from app.files import read_regular
from app.logs import LogLimit
from app.off_loop import run_off_loop

FILE_BYTES = 2**20
"""Bytes of the file that are read: some ten thousand keys."""
_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_HASH = re.compile(r"[0-9a-f]{64}")
log = logging.getLogger(__name__)


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


def key_check(keys: Keys, of: str) -> Callable[[str], Awaitable[None]]:
    """Return the dependency that lets only those in who hold a key; the log names what it is of."""
    limit = LogLimit()

    async def authorize(authorization: Annotated[str, Header()] = "") -> None:
        try:
            # The file may lie on a disk that hangs.
            if await run_off_loop(lambda: keys.admit(authorization)):
                return
            problem = "it has no valid key"
        except KeyFileError as error:
            problem = f"no keys can be read: {error}"
        limit.log(log, logging.WARNING, "%s request refused: %s", of, problem)
        raise Unauthorized("this takes a valid key: Authorization: Bearer …")

    return authorize
