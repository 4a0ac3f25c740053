"""Files of object stores that read as files do: a copy on this machine is made on first use."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path, PosixPath
from typing import Self

from app.files import partial_directory, remove_abandoned
from model.remote.file_systems import (
    SCHEMES,
    RemoteError,
    checked_url,
    download,
    find,
    is_url,
    listing,
)

KEPT_FREE = 0.05
"""Share of the disk that copies leave free."""
_PATTERN = "*?["


class RemoteFile(PosixPath):
    """A file of an object store, by its address; whatever opens it finds a copy of it.

    Name, ending and text are those of the address. The copy lies in the directory for temporary
    files, is made when it is first needed, and is gone with this process; those that were not used
    last make room for others.
    """

    def __str__(self) -> str:
        # As paths have it, only one slash is left of the two.
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        return str(COPIES.of(str(self)))

    def absolute(self) -> Self:
        """Return this path: it is the same from every directory."""
        return self


def file_path(text: str | Path) -> Path:
    """Return the path that a text names, on this machine or in an object store.

    Raises:
        RemoteError: it is an address of a store that names no file.
    """
    if isinstance(text, str) and is_url(text):
        return RemoteFile(checked_url(text))
    return Path(text)


def is_address(path: Path) -> bool:
    """Tell whether a path, of whatever class, was made of the address of a store."""
    return bool(path.parts) and path.parts[0] in {f"{scheme}:" for scheme in SCHEMES}


def with_patterns_found(paths: Sequence[Path]) -> list[Path]:
    """Return paths, in the place of each pattern of a store those of the files that it fits.

    A pattern is as a shell reads it, and ``*`` ends at a slash; shells know only this machine's
    files.

    Raises:
        RemoteError: a pattern fits no file, or the store does not say.
    """
    found: list[Path] = []
    for path in paths:
        if isinstance(path, RemoteFile) and any(letter in str(path) for letter in _PATTERN):
            found += _matching(path)
        else:
            found.append(path)
    return found


def _matching(pattern: RemoteFile) -> list[RemoteFile]:
    wanted = str(pattern).split("/")
    plain = next(n for n, part in enumerate(wanted) if any(letter in part for letter in _PATTERN))
    start = "/".join(wanted[:plain])
    if plain < 3:
        raise RemoteError(f"{pattern}: a bucket is named in full")
    found = [
        RemoteFile(entry.url)
        for entry in listing(start)
        if len(parts := entry.url.split("/")) == len(wanted)
        and all(map(fnmatchcase, parts[plain:], wanted[plain:]))
    ]
    if not found:
        raise RemoteError(f"{pattern}: no file of the store fits")
    return found


class Copies:
    """Copies of remote files on this machine, for as long as this process lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._directory: Path | None = None
        self._found: OrderedDict[str, Path] = OrderedDict()
        """By address; those used last at the end."""
        self._made = 0

    def of(self, url: str) -> Path:
        """Return the copy of a file.

        Raises:
            RemoteError: the file cannot be read, or there is no room for its copy.
        """
        with self._lock:
            if url in self._found:
                self._found.move_to_end(url)
                return self._found[url]
            entry, directory = find(url), self._place()
            self._make_room(directory, url, entry.size)
            path = directory / str(self._made)
            self._made += 1
            try:
                with path.open("wb") as file:
                    download(entry, file)
            except BaseException as error:
                path.unlink(missing_ok=True)
                if isinstance(error, OSError):
                    raise _no_room(url, error.strerror or str(error)) from error
                raise
            self._found[url] = path
            return path

    def new_directory(self) -> Path:
        """Return an empty directory, which is there as long as this process lives."""
        with self._lock:
            directory = self._place() / str(self._made)
            self._made += 1
            directory.mkdir()
            return directory

    def close(self) -> None:
        """Remove all copies."""
        self._stack.close()

    def _place(self) -> Path:
        if self._directory is None:
            parent = Path(tempfile.gettempdir())
            remove_abandoned(parent)
            self._directory = self._stack.enter_context(partial_directory(parent))
            atexit.register(self.close)
        return self._directory

    def _make_room(self, directory: Path, url: str, size: int) -> None:
        """Remove copies, the one used last excepted, until the next one fits."""
        while True:
            disk = shutil.disk_usage(directory)
            if disk.free - size >= KEPT_FREE * disk.total:
                return
            if len(self._found) < 2:
                break
            _, oldest = self._found.popitem(last=False)
            oldest.unlink(missing_ok=True)
        if disk.free < size:
            raise _no_room(url, "No space left on device")


def _no_room(url: str, reason: str) -> RemoteError:
    return RemoteError(
        f"cannot read {url}: no copy could be kept in {tempfile.gettempdir()}: {reason}; TMPDIR in"
        " the environment names another place"
    )


COPIES = Copies()
