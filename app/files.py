"""Files and directories that are written whole or not at all, and survive a power failure.

Content goes under a temporary name beside its target, is synced, and is then renamed: a reader
sees the old content or the new, never a part. This is the only module that does so.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial-"
"""Prefix of temporary names; no reader of a directory takes one for a result."""


def write_file(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write a file and make it durable; what was there is replaced.

    ``mode`` are the file's permissions; by default the process' umask decides.

    Raises:
        OSError: the file cannot be written, with its name; what was there stays.
    """
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(8)}")
    try:
        partial.write_bytes(content)
        if mode is not None:
            partial.chmod(mode)
        put_in_place(partial, path)
    except OSError as error:
        # An error of writing has no name, one of opening the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def put_in_place(partial: Path, target: Path) -> None:
    """Make a file, or a directory with all that it holds, durable; then give it its name.

    Both are in the same file system. A file at ``target`` is replaced; a directory must not be
    there, or must be empty.

    Raises:
        OSError: syncing or renaming fails.
    """
    if partial.is_dir():
        for path in partial.rglob("*"):
            sync(path)
    sync(partial)
    partial.rename(target)
    sync(target.parent)


def read_regular(path: Path, most: int) -> bytes:
    """Return a file's content, at most so many bytes of it.

    A FIFO, a device or a socket is refused at once: reading it could block, or never end.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        return file.read(most)


def sync(path: Path) -> None:
    """Make a file's content, or a directory's names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def partial_directory(parent: Path) -> Iterator[Path]:
    """Yield a new directory below ``parent``; it is removed at the end unless it was renamed.

    The directory is locked as long as this process lives, so that :func:`remove_abandoned` of
    another process leaves it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    directory, lock = _locked(parent)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def remove_abandoned(parent: Path, names: str = f"{PARTIAL}*/", seconds: float = 0.0) -> None:
    """Remove the directories of these names that no process has and that are so old.

    By default these are the partial directories of processes that were killed.
    """
    for directory in parent.glob(names):
        try:
            if seconds and time.time() - directory.stat().st_mtime < seconds:
                continue
            lock = os.open(directory, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            # Its process lives.
            pass
        finally:
            os.close(lock)


@contextmanager
def unfinished_directory(
    directory: Path, keep: Callable[[BaseException], bool] = lambda error: False
) -> Iterator[Path]:
    """Yield a directory of unfinished work, which the next process with the same work goes on in.

    It is removed at the end, unless the process is killed or ``keep`` says so of an error. One
    process at a time has it: others wait.
    """
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Whoever had it before may have removed it.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), directory.stat()):
                break
        os.close(lock)
    try:
        yield directory
    except BaseException as error:
        if not keep(error):
            shutil.rmtree(directory, ignore_errors=True)
        raise
    else:
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(lock)


def _locked(parent: Path) -> tuple[Path, int]:
    """Create a directory and lock it; return it with the descriptor that holds the lock."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=parent))
        lock = os.open(directory, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another process may have removed it as abandoned before it was locked.
        if directory.exists():
            return directory, lock
        os.close(lock)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
